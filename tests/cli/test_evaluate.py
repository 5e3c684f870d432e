# SPDX-License-Identifier: Apache-2.0
"""`steerlm evaluate steering` with a policy in this process and behind a URL, and its numbers against transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from steerlm.cli.main import call
from steerlm.evaluation.cases import independent_cases
from steerlm.evaluation.config import EvaluationSettings
from steerlm.prompt import render_prompt, render_readout
from steerlm.records import Conversation, Turn
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.evaluation.test_measure import LONG, SCHEMA, SHORT
from tests.evaluation.test_measure import folders as folders
from tests.inference.conftest import answer, write
from tests.inference.conftest import tokenizer as tokenizer
from tests.inference.test_http_scorer import serve_app

TOKENS = 4


def steering(folders: dict[str, Path], questions: Path, output: Path) -> list[str]:
    words = ["evaluate", "steering", "--reward", str(folders["reward"]), "--model", str(folders["policy"])]
    return [*words, "--questions", str(questions), "--max-tokens", str(TOKENS), "--output", str(output)]


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "mt_bench.jsonl"
    path.write_text("".join(json.dumps({"prompt": [text, "And then?"]}) + "\n" for text in SHORT))
    return path


def scores_by_transformers(folder: Path, pairs: list[tuple[str, str]]) -> npt.NDArray[np.float64]:
    """[pairs, attributes], each text in a batch of its own."""
    model, encode = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    for question, text in pairs:
        turns = [Turn(value=question, speaker="User"), Turn(value=text, speaker="Assistant")]
        ids = encode(render_readout(Conversation(conversations=turns), 1), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows.append(model(input_ids=ids).logits[0].double().numpy())
    return np.array(rows)


def test_the_numbers_are_those_that_transformers_gives(
    folders: dict[str, Path], questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [{"wit": n % 5, "calm": 4 - n % 3} for n in range(7)]
    held_out = [
        Conversation(
            conversations=[
                Turn(value=f"q{n}?", speaker="User"),
                Turn(value=answer(n), speaker="Assistant", label=SCHEMA.format(label)),
            ]
        )
        for n, label in enumerate(labels)
    ]
    path = write(tmp_path / "val.jsonl", held_out)
    words = steering(folders, questions, tmp_path / "out")
    assert call([*words, "--held-out", str(path)]) == 0
    said, found = capsys.readouterr().out, result(tmp_path / "out")

    model, encode = [
        kind.from_pretrained(folders["policy"]) for kind in (AutoModelForCausalLM, AutoTokenizer)
    ]  # answers and scores by transformers alone
    cases = independent_cases(SHORT, SCHEMA, EvaluationSettings(questions=len(SHORT)))
    pairs = []
    for case in cases:
        prompt = render_prompt([Turn(value=case.question, speaker="User")], SCHEMA.format(case.requested))
        ids = encode(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        written = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)[0, ids.shape[1] :]
        pairs.append((case.question, encode.decode(written, skip_special_tokens=True).strip()))
    obtained = np.clip(scores_by_transformers(folders["reward"], pairs), SCHEMA.low, SCHEMA.high)
    judged = found["steering"]["judges"]["reward model"]
    assert found["steering"]["questions"] == len(SHORT), "all, where there are fewer than 256"
    for column, name in enumerate(SCHEMA.names):
        asked = np.array([case.requested[name] for case in cases])
        assert judged[name]["mae"] == pytest.approx(np.abs(asked - obtained[:, column]).mean(), abs=1e-4)
        correlation = spearmanr(asked, obtained[:, column]).statistic
        assert judged[name]["spearman"] == pytest.approx(correlation, abs=1e-6)
        assert f"  {name:14} Spearman {correlation:5.2f}" in said

    predicted = scores_by_transformers(folders["reward"], [(f"q{n}?", answer(n)) for n in range(7)])
    for column, name in enumerate(SCHEMA.names):
        truth = np.array([label[name] for label in labels])
        quality = found["quality"][name]
        assert quality["n"] == 7
        assert quality["mse"] == pytest.approx(((predicted[:, column] - truth) ** 2).mean(), abs=1e-4)
        assert quality["pearson"] == pytest.approx(np.corrcoef(predicted[:, column], truth)[0, 1], abs=1e-4)
        assert f"{name:14}      7 " in said
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Reward model on held-out text" in report and str(path) in report and "mt_bench.jsonl" in report


def test_without_held_out_answers_that_part_is_left_out_and_a_server_gives_the_same(
    folders: dict[str, Path], questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*steering(folders, questions, tmp_path / "local"), "--count", "8"]
    assert call(words) == 0
    assert "requested and obtained values of 8 questions, by the reward model:" in capsys.readouterr().out
    local = result(tmp_path / "local")
    assert local["quality"] == {} and "held-out text" not in (tmp_path / "local" / "report.html").read_text()

    running, port = serve_app(build_app(folders["policy"], "generate", ServeSettings()))
    url = f"http://127.0.0.1:{port}"
    words = [word.replace(str(tmp_path / "local"), str(tmp_path / "served")) for word in words]
    at = words.index("--model")
    assert call([*words[:at], "--policy-url", url, *words[at + 2 :]]) == 0
    served = result(tmp_path / "served")
    assert served["steering"]["examples"] == local["steering"]["examples"], "the answers are the same"
    assert served["steering"]["judges"] == local["steering"]["judges"]
    assert url in (tmp_path / "served" / "report.html").read_text()
    running.should_exit = True


def test_long_questions_are_left_out_of_the_count(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.txt"
    path.write_text("\n".join([*LONG, *SHORT]))
    words = [*steering(folders, path, tmp_path / "out"), "--over-long", "keep_end"]
    assert call(words) == 0
    assert f"2 questions leave no room for an answer of {TOKENS} tokens; not asked" in capsys.readouterr().out
    found = result(tmp_path / "out")["steering"]
    assert (found["questions"], found["too_long"]) == (len(SHORT), 2)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("a?\nb?\n", [], "q.txt: 2 questions can be asked, 8 are needed"),
        ("\n".join(SHORT), ["--count", "40"], "q.txt: 12 questions can be asked, 40 are needed"),
        ("\n".join(SHORT), ["--held-out", "no.jsonl"], "no.jsonl: no such file"),
        ('{"question": "a?"}\n', [], "q.txt:1: is JSON, a plain question was expected; name the file .jsonl"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_read(
    content: str, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text(content)
    nowhere = {"reward": tmp_path / "nowhere", "policy": tmp_path / "nowhere"}
    assert call([*steering(nowhere, tmp_path / "q.txt", tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_policy_is_needed(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["evaluate", "steering", "--reward", "r", "--questions", str(questions), "--output", "out"]) == 2
    assert "choose the policy: --model FOLDER, or --policy-url" in capsys.readouterr().err
