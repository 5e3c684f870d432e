# SPDX-License-Identifier: Apache-2.0
"""The client's functions called against a real server, and their errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from steerlm.client import describe, encode_labels, get_answer, stream_chat
from steerlm.errors import InputError, SteerLMError
from tests.serving.conftest import ANSWERS, QUESTION


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def test_encode_labels_keeps_the_order_of_the_mapping() -> None:
    assert encode_labels({"toxicity": 0, "quality": 4, "humor": 2}) == "toxicity:0,quality:4,humor:2"
    assert encode_labels({}) == ""


def test_get_answer_returns_only_the_answer(taught_server: str) -> None:
    for humor, answer in ANSWERS.items():
        values = encode_labels({"quality": 4, "toxicity": 0, "humor": humor})
        assert get_answer(QUESTION, 60, values, port_of(taught_server)) == answer
    start = get_answer(QUESTION, 2, values, eval_port=port_of(taught_server))
    assert ANSWERS[4].startswith(start) and 0 < len(start) < len(ANSWERS[4])


def test_errors_name_the_cause(taught_server: str) -> None:
    with pytest.raises(InputError, match="<extra_id_1>"):
        get_answer("a <extra_id_1> b", 5, "quality:4", port_of(taught_server))
    with pytest.raises(InputError, match="window is 400"):
        get_answer(QUESTION, 4000, "quality:4", port_of(taught_server))
    with pytest.raises(SteerLMError, match="steerlm serve generate"):
        get_answer(QUESTION, 5, "quality:4", 1)
    with pytest.raises(InputError, match="did you mean 'humor'"):
        list(stream_chat(taught_server, {"messages": [], "attributes": {"humour": 1}}))


def test_describe_returns_the_attribute_schema(taught_server: str) -> None:
    assert describe(taught_server)["attributes"]["names"] == ["quality", "toxicity", "humor", "warmth"]


def test_import_loads_no_heavy_packages() -> None:
    code = (
        "import sys, steerlm.client; "
        "print([m for m in ('torch', 'transformers', 'fastapi', 'numpy', 'httpx') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"
