# SPDX-License-Identifier: Apache-2.0
"""Raw data made on the fly: OpenAssistant trees, nested and flat, and files of lines."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

NAMES = ("quality", "toxicity", "humor", "creativity")


def write_lines(path: Path, *rows: Any) -> Path:
    """JSON lines, gzipped if the name says so; a row that is a string is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read_json(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]  # not splitlines: U+2028


def make_tree(seed: int, size: int = 0) -> dict[str, Any]:
    """A line of the nested dump: some messages rated fully, in part, without any of the four names, or not at all."""
    draw = random.Random(seed)

    def message(depth: int, name: str) -> dict[str, Any]:
        replies = [message(depth + 1, f"{name}.{i}") for i in range(draw.choice([0, 1, 1, 2, 3]) if depth < 4 else 0)]
        rated = draw.sample(NAMES, draw.choice([0, 2, 4, 4]))
        labels = {n: {"value": draw.choice([0, 0.125, 0.25, 0.375, 0.5, 0.625, 1 / 3, 1]), "count": 3} for n in rated}
        node: dict[str, Any] = {
            "message_id": name,
            "text": f'Grüße {name}\n\u2028\t"{"x" * size}',
            "role": "assistant" if depth % 2 else "prompter",
            "lang": "en",
            "replies": replies,
        }
        if draw.random() < 0.8:
            node["labels"] = {"spam": {"value": 0.0, "count": 3}, "helpfulness": {"value": 0.5, "count": 1}, **labels}
        return node

    return {"message_tree_id": str(seed), "tree_state": "ready_for_export", "prompt": message(0, f"m{seed}")}


def flatten(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The same tree as rows of the flat form."""
    rows: list[dict[str, Any]] = []

    def walk(node: dict[str, Any], parent: str | None) -> None:
        labels = node.get("labels")
        names = list(labels) if labels else []
        flat = {"name": names, "value": [labels[n]["value"] for n in names]} if labels else None
        rows.append({"message_id": node["message_id"], "parent_id": parent, "text": node["text"], "role": node["role"]})
        rows[-1]["labels"] = flat
        for reply in node["replies"]:
            walk(reply, node["message_id"])

    walk(tree["prompt"], None)
    return rows
