# SPDX-License-Identifier: Apache-2.0
"""`steerlm evaluate steering` with a policy in this process and behind a URL."""

import json
from pathlib import Path

import pytest

from steerlm.cli.main import call
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.evaluation.test_measure import SHORT
from tests.evaluation.test_measure import folders as folders
from tests.inference.conftest import tokenizer as tokenizer
from tests.inference.test_http_scorer import serve_app


def test_steering_in_process_and_through_a_server(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in SHORT))
    words = ["evaluate", "steering", "--reward", str(folders["reward"]), "--questions", str(questions)]
    words += ["--count", "8", "--max-tokens", "4"]
    assert call([*words, "--output", str(tmp_path / "local"), "--model", str(folders["policy"])]) == 0
    assert "requested and obtained values, by the reward model:" in capsys.readouterr().out
    local = json.loads((tmp_path / "local" / "evaluation.json").read_text())
    assert local["quality"] == {} and (tmp_path / "local" / "report.html").exists()

    running, port = serve_app(build_app(folders["policy"], "generate", ServeSettings()))
    url = f"http://127.0.0.1:{port}"
    assert call([*words, "--output", str(tmp_path / "served"), "--policy-url", url]) == 0
    served = json.loads((tmp_path / "served" / "evaluation.json").read_text())
    assert served["steering"]["examples"] == local["steering"]["examples"], "the answers are the same"
    assert served["steering"]["judges"] == local["steering"]["judges"]
    assert url in (tmp_path / "served" / "report.html").read_text()
    running.should_exit = True

    assert call([*words, "--output", str(tmp_path / "none")]) == 2
    assert "choose the policy: --model FOLDER, or --policy-url" in capsys.readouterr().err
