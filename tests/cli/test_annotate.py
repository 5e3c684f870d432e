# SPDX-License-Identifier: Apache-2.0
"""`steerlm annotate` as a user runs it: what it says, its exit statuses, interrupted by signals."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from demos.synthetic import free_port
from steerlm.annotation.annotate import annotate
from steerlm.annotation.config import AnnotateSettings
from steerlm.cli.main import call
from tests.annotation.table_scorer import SCHEMA, TableScorer
from tests.inference.conftest import conversation, reward_folder, tokenizer, write  # noqa: F401 (fixtures)
from tests.inference.test_http_scorer import serve_app


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [conversation(n) for n in range(40)])


@pytest.fixture
def slow_port() -> Iterator[int]:
    running, port = serve_app(table_app())
    yield port
    running.should_exit = True


def table_app() -> FastAPI:
    """A reward server that takes its time."""
    app, table = FastAPI(), TableScorer()

    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        return {"kind": "reward", "attributes": SCHEMA.model_dump(mode="json"), "window": 99, "identity": "table"}

    @app.post("/v1/score")
    async def score(request: Request) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        texts = (await request.json())["texts"]
        return {"attributes": SCHEMA.names, "scores": table.score(texts).tolist(), "model": "m"}

    return app


def test_a_folder_labels_a_file_and_a_second_run_says_so(
    source: Path,
    tmp_path: Path,
    reward_folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["annotate", "--input-file", str(source), "--output-file", str(tmp_path / "out.jsonl")]
    words += ["--model", str(reward_folder), "--batch-tokens", "512"]
    assert call(words) == 2
    assert "choose --over-long keep_end or skip" in capsys.readouterr().err
    words += ["--over-long", "keep_end"]
    assert call(words) == 0
    assert "out.jsonl: labeled 40 turns of 40 conversations; " in capsys.readouterr().out
    made = (tmp_path / "out.jsonl").read_bytes()
    assert made.count(b'"gt_label": "quality:3,toxicity:0"') == 14
    assert call(words) == 0
    assert "is complete (40 turns of 40 conversations): nothing to do" in capsys.readouterr().out
    assert (tmp_path / "out.jsonl").read_bytes() == made
    assert call([*words, "--use-system"]) == 2
    assert "started with another use_system" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "--model FOLDER, or --host and --port"),
        (["--model", "x", "--port", "1"], "--model FOLDER, or --host and --port"),
        (["--model", "x", "--url", "http://x"], "--model FOLDER, or --host and --port"),
        (["--model", "nowhere"], "nowhere: no such model folder"),
        (["--model", "x", "--over-long", "drop"], "'drop' is not one of"),
        (["--port", "1", "--profile", "laptop"], "--profile sets where a model folder runs: give --model"),
        (["--model", "x", "--set", "profile.layouts.annotate.devices=2"], "give --profile too"),
        (["--model", "x", "--profile", "laptop", "--write-spec", "x.json"], "--write-spec needs a --profile whose"),
        (["--model", "x", "--profile", "laptop", "--set", "profile.layouts.annotat={}"], "'profile.layouts.annotate'"),
        (["--model", "nowhere", "--profile", "eight-gpus"], "nowhere: no such model folder"),
    ],
)
def test_wrong_usage_is_told(
    extra: list[str], message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["annotate", "--input-file", str(source), "--output-file", str(tmp_path / "out.jsonl")]
    assert call([*words, *extra]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_missing_input_is_told_before_the_model_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["annotate", "--input-file", str(tmp_path / "no.jsonl"), "--output-file", "x", "--model", "nowhere"]
    assert call(words) == 2
    assert "no.jsonl: no such file" in capsys.readouterr().err


def test_several_servers_label_together(source: Path, tmp_path: Path, slow_port: int) -> None:
    running, port = serve_app(table_app())
    words = ["annotate", "--input-file", str(source), "--output-file", str(tmp_path / "out.jsonl")]
    words += ["--url", f"http://127.0.0.1:{port}", "--port", str(slow_port), "--host", "127.0.0.1"]
    words += ["--url", f"http://127.0.0.1:{free_port()}"]  # one that is away
    assert call(words) == 0
    annotate(source, tmp_path / "whole.jsonl", TableScorer())
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    running.should_exit = True


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_goes_on(signum: int, status: int, source: Path, tmp_path: Path, slow_port: int) -> None:
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    words = [sys.executable, "-m", "steerlm.cli", "annotate", "--input-file", str(source), "--output-file", str(out)]
    words += ["--port", str(slow_port), "--look-ahead", "4"]
    child = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    while not journal.exists() or journal.stat().st_size == 0:
        assert child.poll() is None
        time.sleep(0.002)
    start = time.monotonic()
    child.send_signal(signum)
    _, err = child.communicate()
    assert child.returncode == status
    assert time.monotonic() - start < 5
    assert len(err.strip().splitlines()) == 1
    assert "run the same command again to resume" in err
    assert not out.exists()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "lines were done before" in done.stdout
    annotate(source, tmp_path / "whole.jsonl", TableScorer(), AnnotateSettings(look_ahead=4))
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.long
def test_a_job_with_a_killed_worker_goes_on_in_one_process(
    tmp_path: Path,
    reward_folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write(tmp_path / "in.jsonl", [conversation(n) for n in range(200)])
    profile, out = tmp_path / "two.yaml", tmp_path / "out.jsonl"
    profile.write_text("{name: two, layouts: {annotate: {devices: 2, threads: 1}}}")
    words = ["annotate", "--input-file", str(source), "--output-file", str(out), "--model", str(reward_folder)]
    words += ["--over-long", "keep_end", "--look-ahead", "1"]
    killed = threading.Thread(target=kill_a_worker, args=(out.with_name("out.jsonl.parts"),))
    killed.start()
    assert call([*words, "--profile", str(profile)]) == 1
    killed.join()
    assert re.search(
        r"error: annotate-[0-9a-f]+ failed: .*\(its log: .*out\.jsonl\.parts/annotate\.log\)", capsys.readouterr().err
    )
    done = len(list(out.with_name("out.jsonl.parts").glob("*.part")))
    assert 1 <= done < 200
    assert call(words) == 0
    assert "out.jsonl: labeled 200 turns of 200 conversations" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("*.parts")] == []
    assert call([*words, "--profile", str(profile)]) == 0
    assert "is complete (200 turns of 200 conversations): nothing to do" in capsys.readouterr().out


def kill_a_worker(folder: Path) -> None:
    """SIGKILL to one of a job's two workers, as soon as a block is done."""
    while not list(folder.glob("*.part")):
        time.sleep(0.005)
    spec, workers = str(folder / "job" / "spec.json"), []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if spec in (path / "cmdline").read_text().split("\0") and "\0RANK=" in (path / "environ").read_text():
                workers.append(int(path.name))
    os.kill(max(workers), signal.SIGKILL)
