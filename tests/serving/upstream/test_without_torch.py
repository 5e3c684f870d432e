# SPDX-License-Identifier: Apache-2.0
"""A gateway where torch is not installed: its log has one form, and the other engine says what to install.

That it answers all that a server with torch answers, test_gateway.py says: its gateways are without torch.
"""

import json
import subprocess
import sys
from pathlib import Path

import httpx

from tests.absent import without


def test_torch_is_absent() -> None:
    """Else these tests and those of test_gateway.py would say nothing."""
    command = [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('torch')); import torch"]
    done = subprocess.run(command, env=without("torch"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "None\n")
    assert "No module named 'torch'" in done.stderr


def test_every_line_of_the_log_is_json(policy_gateway: str, gateway_logs: Path) -> None:
    """Transformers warns of an absent torch as it is imported, in a form of its own."""
    httpx.post(f"{policy_gateway}/v1/completions", json={"prompt": "A dog", "max_tokens": 2}).raise_for_status()
    lines = (gateway_logs / "policy").read_text().splitlines()
    assert len(lines) >= 2
    assert all("message" in json.loads(line) for line in lines)


def test_the_other_engine_says_what_to_install(policy_folder: Path, reward_folder: Path) -> None:
    for kind, folder in (("generate", policy_folder), ("reward", reward_folder)):
        command = [sys.executable, "-m", "steerlm.cli", "serve", kind, str(folder), "--port", "0"]
        done = subprocess.run(command, env=without("torch"), capture_output=True, text=True, check=False)
        assert done.returncode != 0
        wanted = "running a model needs torch: pip install 'steerlm[serve]', or --engine vllm --upstream URL"
        assert wanted in done.stderr.splitlines()[-1]
