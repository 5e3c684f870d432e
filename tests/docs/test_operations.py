# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md: its commands run from the first to the last in one shell, with real servers, curl and openssl."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from demos.synthetic import free_port
from steerlm.attributes import AttributeSchema
from steerlm.cli.main import call
from steerlm.serving.operations.metrics import REASONS
from tests.cli import world
from tests.conftest import ROOT
from tests.docs.shell import blocks, working_in

DOCUMENT = ROOT / "docs" / "operations.md"
NINE = AttributeSchema(defaults={"toxicity": 0, "humor": 0})


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="needs curl and openssl")
def test_the_commands_run(tmp_path: Path) -> None:
    for kind, make in (("policy", world.policy), ("reward", world.reward)):
        make(tmp_path / "runs" / "demo" / kind, NINE)
    command = tmp_path / "bin" / "steerlm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m steerlm.cli "$@"\n')
    command.chmod(0o755)
    script = "set -eo pipefail\ntrap 'kill $(jobs -p)' EXIT\n"
    script += "\n".join(block.text for block in blocks(DOCUMENT) if block.language == "sh")
    for port, role in (("1427", "generate"), ("1424", "reward")):
        free = str(free_port())
        script = script.replace(port, free).replace(f"serve {role}", f"serve {role} --port {free}")
    with working_in(tmp_path):
        done = subprocess.run(
            ["bash", "-c", f"PATH={command.parent}:$PATH\n{script}"], capture_output=True, text=True, timeout=240
        )
    assert done.returncode == 0, done.stderr
    replies = [line for line in done.stdout.replace("}{", "}\n{").splitlines() if line.startswith(("{", "vllm:"))]
    assert all(reply in done.stdout for reply in ('{"status":"started"}', '{"status":"ready"}'))
    (answer,) = [json.JSONDecoder().raw_decode(reply)[0] for reply in replies if "chat.completion" in reply]
    (metric,) = [reply for reply in replies if reply.startswith("vllm:generation_tokens_total{")]
    assert answer["usage"]["completion_tokens"] == float(metric.split()[-1]) <= 8
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["logger"] == "steerlm.access" and line["method"] == "POST"]
    (shown,) = [json.loads(block.text) for block in blocks(DOCUMENT) if block.language == "json"]
    assert line.keys() == shown.keys() - {"attributes"} and line["key"] == "alice"
    assert "What is a good pet" not in done.stderr


def test_the_table_names_the_metrics_there_are(reward_metrics: set[str]) -> None:
    shown = set(re.findall(r"^\| `((?:vllm:|steerlm_)\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert {name for name in reward_metrics if name.startswith(("vllm:", "steerlm_"))} <= shown
    assert len(shown) == 20


def test_the_list_has_every_reason_of_a_status() -> None:
    text = DOCUMENT.read_text()
    assert all(f"`{reason}`" in text for reason in REASONS.values())


@pytest.fixture
def reward_metrics(tmp_path: Path) -> set[str]:
    """Names of what a reward server has measured after a request."""
    from fastapi.testclient import TestClient

    from steerlm.serving.config import ServeSettings
    from steerlm.serving.run import build_app

    world.reward(tmp_path / "reward", NINE)
    with TestClient(build_app(tmp_path / "reward", "reward", ServeSettings())) as client:
        body = {"prompt": "Why?", "response": "So."}
        assert client.post("/v1/score", json=body).status_code == httpx.codes.OK
        text = client.get("/metrics").text
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    return {
        "steerlm_score_bucket" if name == "steerlm_score" else name for name in names if not name.endswith("_created")
    }


@pytest.mark.parametrize("role", ["reward", "generate"])
def test_the_options_are_those_of_the_help_in_sections(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", role, "--help"]) == 0
    sections = dict(re.findall(r"^(\w+):\n(.*?)(?=^\w+:|\Z)", capsys.readouterr().out, re.MULTILINE | re.DOTALL))
    assert list(sections) == ["Arguments", "Options", "Network", "Security", "Limits", "Operation"]
    shown = {
        option for name in ("Security", "Operation") for option in re.findall(r"^  (--[\w-]+)", sections[name], re.M)
    }
    assert shown == {
        *(
            "--api-keys",
            "--open-metrics",
            "--tls-cert",
            "--tls-key",
            "--drain-seconds",
            "--log-format",
            "--log-prompts",
        ),
    }
    text = DOCUMENT.read_text()
    assert all(option in text for option in shown - {"--drain-seconds"})
