# SPDX-License-Identifier: Apache-2.0
"""A folder in which every command can run: raw data, conversations, a recipe, tiny models with dials, a store."""

import json
from pathlib import Path
from typing import Any, Literal

from steerlm.artifact import Store
from steerlm.attributes import AttributeSchema
from steerlm.datasets.rating_folder import RatingFolder
from steerlm.datasets.ratings import RatingNote, rated_conversation
from steerlm.models.folder import ModelInfo, finish_folder
from steerlm.models.shape import ModelShape
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.records import Turn
from tests.datasets.raw import make_tree, write_lines
from tests.tiny_models import tiny_base

SCHEMA = AttributeSchema(names=("warm", "brief", "bold"), low=0, high=9, defaults={"brief": 2})
WINDOW = 512
RECIPE = f"""\
name: own
profile: laptop
attributes: {{names: [warm, brief, bold], low: 0, high: 9, defaults: {{brief: 2}}}}
prepare_data: {{sources: [{{kind: conversations, source: own}}]}}
base: {{fetch: {{uri: models/base}}}}
reward: {{max_steps: 1, global_batch: 2, window: {WINDOW}, precision: fp32}}
sft: {{max_steps: 1, global_batch: 2, window: {WINDOW}, precision: fp32}}
"""


def build(folder: Path) -> None:
    """Write everything below `folder`; takes a second or two."""
    raw(folder / "raw")
    for name, count in (("train", 8), ("val", 4)):
        write_lines(folder / "own" / f"{name}.jsonl", *(talk(number) for number in range(count)))
    ratings(folder / "ratings", {"warm": 3})
    (folder / "questions.txt").write_text("".join(f"Why {number}?\n" for number in range(8)))
    (folder / "own.yaml").write_text(RECIPE)
    tiny_base(folder / "models" / "base")
    policy(folder / "models" / "policy")
    reward(folder / "models" / "reward")
    store = Store(folder / "store")
    for key in ("old", "new"):
        store.begin("prepare_data", key, "data", {"label": "prepare_data"})
        (store.folder("prepare_data", key) / "data" / "train.jsonl").write_text(key)
        store.finish("prepare_data", key, "data", None, {"finished": f"2026-01-01T00:00:0{len(key) % 2}"})
    store.begin("train_reward", "begun", "reward", {"label": "train_reward"})


def talk(number: int) -> dict[str, Any]:
    """A conversation; its answer is labeled with values that depend on `number`."""
    label = f"warm:{number},brief:{9 - number},bold:{number % 3}"
    turns = [{"from": "User", "value": f"Why {number}?"}, {"from": "Assistant", "value": "So.", "label": label}]
    return {"system": "", "mask": "User", "type": "VALUE_TO_TEXT", "conversations": turns}


def ratings(folder: Path, labels: dict[str, int]) -> None:
    """What people said in the studio: two ratings of one answer and a preference."""
    history = [Turn(value="Why?", speaker="User")]
    kind: Literal["rating", "preference"]
    for number, (by, strength) in enumerate((("Anna", None), ("Bo", None), ("Bo", 2))):
        kind = "rating" if strength is None else "preference"
        at = f"2026-11-27T12:00:0{number}.000000Z"
        note = RatingNote(kind=kind, id=f"{number:032x}", by=by, at=at, model="policy", asked={}, strength=strength)
        answers = ("So.",) if kind == "rating" else ("So.", "Because.")
        given = labels if kind == "rating" else {}
        RatingFolder(folder).append([rated_conversation(SYSTEM_PROMPT, history, one, given, note) for one in answers])


def raw(folder: Path) -> None:
    """OASST's trees, HelpSteer's rows and pairs, chat messages with ratings."""
    write_lines(folder / "oasst.jsonl", *(make_tree(seed) for seed in range(6)))
    ratings = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 0}
    for split, count in (("train", 3), ("validation", 1)):
        rows = [{"prompt": f"Why {n}?", "response": "So.", **ratings} for n in range(count)]
        write_lines(folder / "helpsteer" / f"{split}.jsonl", *rows)
        write_lines(folder / "helpsteer2" / f"{split}.jsonl", *rows)
    pair = {"prompt": "Why?", "response_1": "So.", "response_2": "Because.", "preference_strength": 2, "split": "train"}
    write_lines(folder / "helpsteer2" / "preference" / "preference.jsonl", pair)
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    write_lines(folder / "chats" / "train.jsonl", *({"messages": chat, "ratings": {"warm": n}} for n in range(5)))


def policy(folder: Path, schema: AttributeSchema = SCHEMA) -> None:
    """A language model of random weights with the dials of a schema."""
    tiny_base(folder, max_position_embeddings=WINDOW)
    _finish(folder, ModelInfo("policy", attributes=schema.restricted(schema.names), window=WINDOW))


def reward(folder: Path, schema: AttributeSchema = SCHEMA) -> None:
    """The same with a head of scores in place of the vocabulary's."""
    import torch
    from safetensors.torch import load_file, save_file

    tiny_base(folder, max_position_embeddings=WINDOW)
    weights = {n: weight for n, weight in load_file(folder / "model.safetensors").items() if n != "lm_head.weight"}
    head = torch.randn(len(schema.names), weights["model.norm.weight"].shape[0])
    save_file({**weights, "score.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    _finish(folder, ModelInfo("reward", attributes=schema.restricted(schema.names), window=WINDOW))


def _finish(folder: Path, info: ModelInfo) -> None:
    shape = ModelShape.from_folder(folder)
    (folder / "steerlm.json").unlink()
    finish_folder(folder, shape=shape, tokenizer_from=folder / "tokenizer", info=info, dtype="float32")
    assert json.loads((folder / "steerlm.json").read_text())["kind"] == info.kind
