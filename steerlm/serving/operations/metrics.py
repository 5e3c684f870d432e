# SPDX-License-Identifier: Apache-2.0
"""`GET /metrics` for Prometheus: vLLM's names where they mean the same, `steerlm_` for the rest (docs/operations.md).

Every app has a registry of its own. Label values come from small sets: the model's name, routes, names of keys,
attributes of the schema and their values, reasons.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import steerlm
from steerlm.attributes import AttributeSchema
from steerlm.serving.request_record import RequestRecord
from steerlm.serving.service import Service, ServiceLoad

router = APIRouter(tags=["health"])

ENGINE = "steerlm"
"""Value of the label `engine`, where vLLM has the number of its engine: tells both apart where both are scraped."""

REASONS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "media_type",
    429: "queue_full",
    499: "client_closed",
    500: "failure",
    502: "upstream",
    503: "draining",
    504: "deadline",
}
"""Reasons of statuses that have one reason; the others are given where a request is refused."""

FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20)
REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480)
"""Upper bounds of buckets, in seconds."""


class ServingMetrics(Collector):
    """The metrics of an app; a `TokenSink` of its requests.

    Args:
        service: What the app serves.
        state: The app's state, for `in_flight` and `body_bytes`.
    """

    def __init__(self, service: Service, state: Any) -> None:
        self._service, self._state = service, state
        self._load: ServiceLoad | None = None
        self.registry = CollectorRegistry()
        self._labels = {"model_name": service.name, "engine": ENGINE}
        ProcessCollector(registry=self.registry)
        self.registry.register(self)
        self._prompt = self._counter("vllm:prompt_tokens", "Tokens of prompts, and of texts to score.")
        self._generated = self._counter("vllm:generation_tokens", "Tokens of answers.")
        self._success = self._counter("vllm:request_success", "Answers, by why they ended.", "finished_reason")
        self._first = self._histogram(
            "vllm:time_to_first_token_seconds",
            "Time from a whole request to the first token of its stream.",
            FIRST_TOKEN,
        )
        self._between = self._histogram(
            "vllm:inter_token_latency_seconds", "Time between two tokens of a streamed answer.", PER_TOKEN
        )
        self._per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Time of a request divided by the tokens of its longest answer.",
            PER_TOKEN,
        )
        self._latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "Time from a whole request to the end of its response.", REQUEST
        )
        self._requests = self._own_counter(
            "http_requests", "Requests, by route, status and name of the API key.", "method", "route", "status", "key"
        )
        self._refused = self._own_counter("refused_requests", "Requests that were not served, by reason.", "reason")
        self._key_tokens = self._own_counter("key_tokens", "Tokens, by name of the API key.", "key", "kind")
        self._asked = self._own_counter(
            "attributes_asked", "Dials that requests set, by attribute and value.", "attribute", "value"
        )
        self._texts = self._own_counter("scored_texts", "Texts scored.")
        self._scores = ScoreHistogram(service.schema) if service.schema and service.kind == "reward" else None
        self.reload_failures = Counter(
            "steerlm_reload_failures", "Failed reloads of changed files.", ("file",), registry=self.registry
        )

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        counter = Counter(name, text, (*self._labels, *more), registry=self.registry)
        if not more:
            counter.labels(**self._labels)  # 0 before the first request, so that a rate sees its first increase
        return counter

    def _own_counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"steerlm_{name}", text, ("model_name", *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, tuple(self._labels), buckets=buckets, registry=self.registry)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return what Prometheus reads and its content type; `accept` is the request's header."""
        self._load = await self._service.load()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield what is read when it is asked for."""
        load = self._load
        if load is not None:
            yield self._gauge("vllm:num_requests_running", "Requests being computed.", load.running)
            yield self._gauge("vllm:num_requests_waiting", "Requests that wait for a place in the batch.", load.waiting)
            if load.texts is not None:
                yield self._gauge("steerlm_scorer_queue_texts", "Texts that are not scored yet.", load.texts)
        if self._scores:
            yield self._scores.family(self._service.name)
        yield self._gauge("steerlm_answers_in_flight", "Answers being generated or waiting.", self._state.in_flight)
        yield self._gauge("steerlm_request_body_bytes", "Bodies of requests in memory.", self._state.body_bytes)
        build = GaugeMetricFamily("steerlm_build_info", "Version of the server.", labels=("version",))
        build.add_metric((steerlm.__version__,), 1)
        yield build

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=tuple(self._labels))
        gauge.add_metric(tuple(self._labels.values()), value)
        return gauge

    def prompt_tokens(self, record: RequestRecord, count: int) -> None:
        """See `TokenSink`."""
        self._prompt.labels(**self._labels).inc(count)
        self._key_tokens.labels(self._service.name, record.key, "prompt").inc(count)

    def generated_tokens(self, record: RequestRecord, count: int) -> None:
        """See `TokenSink`."""
        self._generated.labels(**self._labels).inc(count)
        self._key_tokens.labels(self._service.name, record.key, "generation").inc(count)

    def first_token(self, seconds: float) -> None:
        """See `TokenSink`."""
        self._first.labels(**self._labels).observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        """See `TokenSink`."""
        self._between.labels(**self._labels).observe(seconds)

    def scored(self, scores: Any) -> None:
        """See `TokenSink`."""
        self._texts.labels(self._service.name).inc(len(scores))
        if self._scores:
            self._scores.add(scores)

    def refused(self, reason: str) -> None:
        """Count a request that was not served."""
        self._refused.labels(self._service.name, reason).inc()

    def finished(self, record: RequestRecord, seconds: float) -> None:
        """Count a request at its end.

        Args:
            record: The request.
            seconds: From its headers to the end of its response.
        """
        if record.received is not None:
            seconds -= record.received - record.started
        name = self._service.name
        self._requests.labels(name, record.method, record.route, str(record.status), record.key).inc()
        if record.reason:
            self.refused(record.reason)
        for attribute, value in record.attributes.items():
            self._asked.labels(name, attribute, str(value)).inc()
        for finish in record.finish_reasons:
            self._success.labels(**self._labels, finished_reason=finish).inc()
        if record.reason is None and (record.prompts or record.texts):
            self._latency.labels(**self._labels).observe(seconds)
            if record.generated:
                answers = max(1, len(record.finish_reasons))
                self._per_token.labels(**self._labels).observe(seconds * answers / record.generated)


class ScoreHistogram:
    """Counts of raw scores in buckets, of each trained attribute. A request may have thousands: counted as arrays."""

    def __init__(self, schema: AttributeSchema) -> None:
        self._names = schema.active
        self._columns = [schema.names.index(name) for name in schema.active]
        self._bounds = np.array(score_buckets(schema))
        self._counts = np.zeros((len(self._names), len(self._bounds) + 1), dtype=np.int64)

    def add(self, scores: npt.NDArray[np.float32]) -> None:
        """Count [n, attributes] scores."""
        values = scores[:, self._columns]
        np.add.at(self._counts, (np.arange(len(self._names)), np.searchsorted(self._bounds, values)), 1)

    def family(self, model: str) -> Metric:
        """Return the metric, without a sum: with scores below 0 it would not grow, as Prometheus expects of sums."""
        family = HistogramMetricFamily("steerlm_score", "Raw scores, by attribute.", labels=("model_name", "attribute"))
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        for name, counts in zip(self._names, self._counts.cumsum(axis=1), strict=True):
            family.add_metric((model, name), list(zip(bounds, counts.tolist(), strict=True)), sum_value=None)
        return family


def score_buckets(schema: AttributeSchema) -> tuple[float, ...]:
    """Return the upper bounds of buckets for raw scores: half values of the range, and one value beyond each end.

    >>> score_buckets(AttributeSchema(names=("a",), low=0, high=2))
    (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    """
    step = max(1, (schema.high - schema.low + 2) // 10) / 2
    count = int((schema.high - schema.low + 2) / step)
    return tuple(schema.low - 1 + step * index for index in range(count + 1))


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return the metrics in the text format, or in OpenMetrics' if it is asked for."""
    text, content_type = await request.app.state.metrics.exposition(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
