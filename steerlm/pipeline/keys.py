# SPDX-License-Identifier: Apache-2.0
"""What a stage's key is made of, and why a key is new: what differs from the keys before it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerlm.checksums import digest_json
from steerlm.pipeline.code_digest import code_digest
from steerlm.stages.base import ConfigT, Inputs, Stage

KEY_LENGTH = 20
NOT_COMPARED = ("started", "stage", "label")


def key_parts(stage: Stage[ConfigT], config: ConfigT, inputs: Inputs) -> dict[str, Any]:
    """Everything a key depends on, readable: the store keeps it as `key.json`."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "code": code_digest(stage.code, stage.without),
        "config": stage.method(config, inputs),
        "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
    }


def key_of(parts: Mapping[str, Any]) -> str:
    return digest_json(parts)[:KEY_LENGTH]


def explain(parts: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """Why there is no artifact of this key: what differs from the most similar of the earlier keys (`records`)."""
    now = _compared(parts)
    differences = [_difference(_compared(record), now) for record in records]
    if not differences:
        return "never run before"
    said = [_say(name, *values) for name, values in min(differences, key=len).items()]
    return "; ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries and lists by dotted name."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield prefix.removesuffix("."), value
        return
    for key, inner in items:
        yield from flat(inner, f"{prefix}{key}.")


def _compared(parts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flat({name: value for name, value in parts.items() if name not in NOT_COMPARED}))


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*now, *(name for name in then if name not in now)]
    return {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}


def _say(name: str, old: Any, new: Any) -> str:
    if name == "code":
        return "the stage's code changed"
    if name.startswith("inputs."):
        return f"its input {name.removeprefix('inputs.')} changed"
    return f"{name.removeprefix('config.')} changed from {_short(old)} to {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
