# SPDX-License-Identifier: Apache-2.0
"""Damaged copies of good input: bytes flipped, cut, doubled; JSON values replaced, dropped, moved. Reproducible."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, 10**40, "", " ", "x", "\ud800", "\x00", "<extra_id_1>", "quality:9",
    "quality:4,quality:4", "nan", [], {}, [[]], [None], {"a": {}}, "a" * 5000, float("nan"), float("inf"),
)  # fmt: skip


def damaged_bytes(good: bytes, dice: random.Random) -> bytes:
    """One to three changes anywhere."""
    data = bytearray(good)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(data) or 1)
        kind = dice.randrange(5)
        if kind == 0 and data:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del data[at : at + dice.randint(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + dice.randint(1, 40)]
        elif kind == 3:
            data[at:at] = dice.choice([b"\x00", b"\xff\xfe", b"\n", b'"', b"{", b"]", b"\\u0000", b"\xed\xa0\x80"])
        else:
            del data[at:]
    return bytes(data)


def damaged_value(good: Any, dice: random.Random) -> Any:
    """One place of a JSON value changed."""
    value = copy.deepcopy(good)
    places = list(_places(value))
    if not places:
        return dice.choice(ODD)
    owner, key = dice.choice(places)
    kind = dice.randrange(4)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[dice.choice(["from", "label", "", "x" * 300, "unknown"])] = owner.pop(key)
    elif kind == 2 and isinstance(owner, list):
        owner.append(copy.deepcopy(owner[key]))
    else:
        owner[key] = dice.choice(ODD)
    return value


def dumps(value: Any) -> bytes:
    """As JSON, lone surrogates and NaN included, as careless clients write them."""
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
