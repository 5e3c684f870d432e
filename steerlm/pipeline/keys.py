# SPDX-License-Identifier: Apache-2.0
"""The key of a stage's artifact, and why a key is new: the differences from earlier keys."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerlm.checksums import digest_json
from steerlm.stages.base import ConfigT, Inputs, Stage

KEY_LENGTH = 20
NOT_COMPARED = ("started", "stage", "label")


def key_parts(stage: Stage[ConfigT], config: ConfigT, inputs: Inputs) -> dict[str, Any]:
    """Return everything a key depends on, readable: the store keeps it as `key.json`.

    The stage's code is no part of it: raise the stage's `version` when a change of code changes its result.
    """
    return {
        "stage": stage.name,
        "version": stage.version,
        "config": stage.method(config, inputs),
        "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the key: the start of the sha256 of its parts."""
    return digest_json(parts)[:KEY_LENGTH]


def explain(parts: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """Return why there is no artifact with this key: how it differs from the most similar of the earlier `records`."""
    current = _comparable(parts)
    differences = [_differences(_comparable(record), current) for record in records]
    if not differences:
        return "never run before"
    texts = [_describe(name, *values) for name, values in min(differences, key=len).items()]
    return "; ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and lists by dotted name."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield prefix.removesuffix("."), value
        return
    for key, inner in items:
        yield from flatten(inner, f"{prefix}{key}.")


def _comparable(parts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flatten({name: value for name, value in parts.items() if name not in NOT_COMPARED}))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*new, *(name for name in old if name not in new)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _describe(name: str, old: Any, new: Any) -> str:
    if name == "version":
        return f"the stage's version changed from {old} to {new}"
    if name.startswith("inputs."):
        return f"its input {name.removeprefix('inputs.')} changed"
    return f"{name.removeprefix('config.')} changed from {_shorten(old)} to {_shorten(new)}"


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
