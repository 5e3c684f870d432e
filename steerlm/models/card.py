# SPDX-License-Identifier: Apache-2.0
"""The model card of a folder: architecture, attributes, data, metrics, and a snippet that loads the model."""

import json

from steerlm.dropped import Dropped
from steerlm.models.info import ModelInfo
from steerlm.models.shape import ModelShape

TITLES = {"base": "Language model", "reward": "Multi-attribute reward model", "policy": "Steerable language model"}
RECORDS = {"base": "texts", "reward": "samples", "policy": "conversations"}
"""What a line of the data is called that a kind of model is trained on."""

LOAD_POLICY = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "Where does the owl live?"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, attributes=ATTRIBUTES
)
out = model.generate(**inputs, max_new_tokens=64, stop_strings=["<extra_id_1>"], tokenizer=tokenizer)
answer = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]).removesuffix("<extra_id_1>").rstrip("\\n")
"""
LOAD_REWARD = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
messages = [
    {"role": "user", "content": "Where does the owl live?"},
    {"role": "assistant", "content": "In the old barn."},
]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
scores = dict(zip(model.config.id2label.values(), model(**inputs).logits[0].tolist()))
"""
LOAD_BASE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
"""


def snippet(info: ModelInfo) -> str:
    """Return Python code that loads the model with plain transformers; it expects the variable `folder`."""
    if info.kind == "reward":
        return LOAD_REWARD
    if info.attributes is None:
        return LOAD_BASE
    return LOAD_POLICY.replace("ATTRIBUTES", json.dumps(info.attributes.complete({})))


def model_card(info: ModelInfo, shape: ModelShape, dtype: str) -> str:
    """Return the text of the folder's README.md."""
    schema = info.attributes
    front = {
        "library_name": "transformers",
        "tags": ["steerlm", info.kind],
        "license": info.license,
        "base_model": info.base.partition("@")[0] if info.base else None,
    }
    outputs = len(schema.names) if schema and info.kind == "reward" else None
    lines = ["---", *(f"{k}: {json.dumps(v)}" for k, v in front.items() if v), "---", "", f"# {TITLES[info.kind]}", ""]
    count = f"{shape.parameters(outputs):,}"
    lines += [f"{shape.family.name} architecture, {count} parameters, {dtype}. Made with SteerLM."]
    if info.window:
        lines += [f"Trained on texts of at most {info.window} tokens."]
    lines += [
        f"Base model: {info.base or 'none (trained from random weights)'}, license: {info.license or 'not stated'}.",
        "",
    ]
    if schema:
        lines += [
            f"## Attributes, {schema.low}..{schema.high}",
            "",
            "| attribute | trained | default |",
            "|---|---|---|",
        ]
        for name in schema.names:
            trained = name in schema.active
            lines.append(f"| {name} | {'yes' if trained else 'no'} | {schema.default(name) if trained else ''} |")
        lines.append("")
    left_out = [Dropped.from_counts(f"{name} data", counts, RECORDS[info.kind]) for name, counts in info.data.items()]
    for title, values in (("Data", info.data), ("Metrics", info.metrics)):
        if values:
            lines += [f"## {title}", ""]
            lines += [f"{one}.\n" for one in left_out if one.number and title == "Data"]
            lines += ["```json", json.dumps(values, indent=2), "```", ""]
    lines += ["## Load it", "", "```python", 'folder = "."', snippet(info).rstrip(), "```", ""]
    return "\n".join(lines)
