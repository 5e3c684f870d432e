# SPDX-License-Identifier: Apache-2.0
"""The server's log, as text for people or as a JSON object a line, and its line for each request.

A line says who asked what of which route and what it came to. Prompts are in it only if the server is told so.
"""

import logging
import time
from typing import Any, Literal

from steerlm.serving.health import HEALTH_PATHS
from steerlm.serving.request_record import RequestRecord, current

LogFormat = Literal["text", "json"]

access = logging.getLogger("steerlm.access")

BODY_CHARACTERS = 65536
"""Characters of a logged body at most."""


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to every line that is logged while a request is answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add it; keep every line."""
        if not hasattr(record, "request_id") and (request_id := current().id):
            record.request_id = request_id
        return True


def configure(log_format: LogFormat) -> None:
    """Make the process log to stderr."""
    handler = logging.StreamHandler()
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.addFilter(RequestIdFilter())
        names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}
        formatter = JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields=names,
            datefmt="%Y-%m-%dT%H:%M:%SZ",
            json_ensure_ascii=False,
        )
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def log_request(record: RequestRecord, seconds: float) -> None:
    """Log the line of a request that has ended; those of probes and metrics only at level DEBUG.

    Args:
        record: The request.
        seconds: From its headers to the end of its response.
    """
    quiet = record.path in HEALTH_PATHS or record.path == "/metrics"
    level = logging.DEBUG if quiet and record.status < 400 else logging.INFO
    if not access.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "request_id": record.id,
        "client": record.client,
        "key": record.key,
        "method": record.method,
        "path": record.path,
        "route": record.route,
        "status": record.status,
        "reason": record.reason,
        "seconds": round(seconds, 4),
        "prompt_tokens": record.prompts,
        "generated_tokens": record.generated,
        "texts": record.texts,
        "attributes": record.attributes,
        "finish_reasons": record.finish_reasons,
    }
    if record.body is not None:
        fields["body"] = record.body.decode(errors="replace")[:BODY_CHARACTERS]
    given = {name: value for name, value in fields.items() if value or name == "status"}
    access.log(level, "%s", _text(record, seconds, given), extra=given)


def _text(record: RequestRecord, seconds: float, given: dict[str, Any]) -> str:
    parts = [f"{record.client} {record.method} {record.path} {record.status} in {seconds:.3f} s"]
    if record.key:
        parts.append(f"key {record.key}")
    if record.reason:
        parts.append(record.reason)
    if record.texts:
        parts.append(f"{record.texts} texts")
    if record.prompts or record.generated:
        parts.append(f"{record.prompts} + {record.generated} tokens")
    if record.attributes:
        parts.append(",".join(f"{name}:{value}" for name, value in record.attributes.items()))
    parts.append(f"request {record.id}")
    if "body" in given:
        parts.append(f"body {given['body']!r}")
    return ", ".join(parts)
