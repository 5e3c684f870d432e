# SPDX-License-Identifier: Apache-2.0
"""Spans of requests: in memory, and as a real server sends them to a collector."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from steerlm.serving.operations import tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
CHAT = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 3,
    "min_tokens": 3,
    "chat_template_kwargs": {"attributes": {"humor": 4}},
}


def test_a_span_has_the_parent_and_the_tokens(
    policy_folder: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "provider_from_environment", lambda: provider)
    with serving(policy_folder, "generate") as (url, _):
        for stream in (False, True):
            body = CHAT | {"stream": stream}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=TRACEPARENT).status_code == 200
        httpx.get(f"{url}/livez")
        httpx.get(f"{url}/metrics")
        httpx.get(f"{url}/v1/models/nothing")
    *answers, missing = exporter.get_finished_spans()
    assert len(answers) == 2
    for span in answers:
        assert span.name == "POST /v1/chat/completions" and span.attributes is not None
        assert span.context is not None and span.parent is not None
        assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
        assert span.attributes["gen_ai.usage.output_tokens"] == 3
        assert int(str(span.attributes["gen_ai.usage.input_tokens"])) > 30
        assert span.attributes["steerlm.attributes.humor"] == 4
        assert "Hi" not in str(span.attributes.values())
    assert missing.name == "GET /v1/models/{model_id}" and missing.parent is None and missing.attributes is not None
    assert missing.attributes["steerlm.reason"] == "not_found"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A server that takes OTLP over HTTP."""
    received = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_endpoint_of_the_environment_gets_the_spans_before_the_server_ends(
    reward_folder: Path,
    serving: Callable[..., Any],
    collector: tuple[str, list[ExportTraceServiceRequest]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    with serving(reward_folder, "reward") as (url, _):
        body = {"texts": ["<extra_id_1>User\nA dog\n<extra_id_2>"] * 2}
        assert httpx.post(f"{url}/v1/score", json=body, headers=TRACEPARENT).status_code == 200
    (resource,) = [one for request in received for one in request.resource_spans]
    assert "steerlm" in [pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"]
    (span,) = [span for scope in resource.scope_spans for span in scope.spans]
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("POST /v1/score", TRACE, PARENT)
    assert {pair.key: pair.value.int_value for pair in span.attributes}["steerlm.texts"] == 2


def test_no_endpoint_or_a_disabled_one_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.provider_from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.provider_from_environment() is None
