# SPDX-License-Identifier: Apache-2.0
"""What an upstream is doing now, as its own `/metrics` says: vLLM's names, which our servers have too."""

from collections.abc import AsyncIterable

from prometheus_client.parser import text_string_to_metric_families

from steerlm.serving.service import ServiceLoad

METRICS = "/metrics"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"


async def read_load(lines: AsyncIterable[bytes]) -> ServiceLoad | None:
    """Sum the two gauges over the upstream's engines.

    Args:
        lines: Of Prometheus' text format. vLLM has thousands; the others are not parsed.

    Returns:
        The load; None if a gauge is missing.

    Raises:
        ValueError: A line of a gauge is not one of the text format.
    """
    names = tuple(name.encode() for name in (RUNNING, WAITING))
    text = "".join([line.decode() async for line in lines if line.startswith(names)])
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    if RUNNING not in found or WAITING not in found:
        return None
    return ServiceLoad(int(found[RUNNING]), int(found[WAITING]))
