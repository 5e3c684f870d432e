# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry traces: a span per request, a child of the caller's (`traceparent`), with token counts.

On if `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; sent as OTLP over HTTP. The other
variables of OpenTelemetry's SDK hold too. Needs `steerlm[telemetry]`. The spans are FastAPI's.
"""

import logging
import os
from typing import TYPE_CHECKING

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from steerlm.serving.health import HEALTH_PATHS
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


def telemetry(provider: "TracerProvider | None") -> TelemetryConfig:
    """Return what FastAPI traces: with a provider, every request but those of probes and metrics; nothing else."""
    # FastAPI's log records would have the inputs of refused requests, its other spans the steps inside of a route.
    off: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    if provider is None:
        return {**off, "tracing": False}
    return {**off, "tracer_provider": provider, "exclude": lambda scope: scope["path"] in HEALTH_PATHS | {"/metrics"}}


def describe_request(record: RequestRecord) -> None:
    """Add what a request came to to its span."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attributes(
        {
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
