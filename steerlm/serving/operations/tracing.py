# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry traces: a span per request, a child of the caller's (`traceparent`), with token counts.

On if `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; sent as OTLP over HTTP. The other
variables of OpenTelemetry's SDK hold too. Needs `steerlm[telemetry]`.
"""

import logging
import os
from typing import TYPE_CHECKING

from fastapi import FastAPI

from steerlm.serving.request_record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def provider_from_environment() -> "TracerProvider | None":
    """Return what sends spans to the endpoint of the environment; None if it names none, or packages are missing."""
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        import opentelemetry.instrumentation.asgi  # noqa: F401
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("no traces: %s is missing; pip install 'steerlm[telemetry]'", error.name)
        return None
    if any(os.environ.get(name) == "grpc" for name in PROTOCOLS):
        logger.warning("traces are sent as OTLP over HTTP, not gRPC: the endpoint is usually one with port 4318")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "steerlm"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logger.info("traces are sent to %s", endpoint)
    return provider


def trace_requests(app: FastAPI, provider: "TracerProvider") -> None:
    """Make a span of every request of an app but those of probes and metrics."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    app.add_middleware(
        OpenTelemetryMiddleware,
        excluded_urls="/livez$,/readyz$,/startupz$,/health$,/ready$,/health/live$,/health/ready$,/metrics$",
        tracer_provider=provider,
        exclude_spans=["receive", "send"],  # one for each token of a stream
    )


def describe_request(record: RequestRecord, seconds: float) -> None:
    """Add what a request came to to its span."""
    from opentelemetry import trace

    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.update_name(f"{record.method} {record.route}")
    span.set_attributes(
        {
            "http.route": record.route,
            "gen_ai.usage.input_tokens": record.prompts,
            "gen_ai.usage.output_tokens": record.generated,
            "steerlm.request_id": record.id,
            "steerlm.api_key": record.key,
            "steerlm.texts": record.texts,
            "steerlm.reason": record.reason or "",
        }
    )
    for name, value in record.attributes.items():
        span.set_attribute(f"steerlm.attributes.{name}", value)
