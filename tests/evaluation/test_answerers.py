# SPDX-License-Identifier: Apache-2.0
"""Answers of a job and of a server are those of the policy in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import InputError, SteerLMError
from steerlm.evaluation import job_answerer, worker
from steerlm.evaluation.answerer import InProcessAnswerer, folder_schema
from steerlm.evaluation.cases import SteeringCase
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.job_answerer import JobAnswerer
from steerlm.evaluation.served_answerer import ServedAnswerer
from steerlm.evaluation.spec import GenerateSpec
from steerlm.inference.http_chat import HttpChat
from steerlm.jobs.parts import Parts
from steerlm.jobs.place import JobPlace
from steerlm.recipe import Layouts, Profile
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from steerlm.stages.base import StageContext
from steerlm.stages.evaluate import _answerer
from steerlm.training.layout import LayoutSettings
from tests.evaluation.test_measure import LONG, SCHEMA, SHORT
from tests.evaluation.test_measure import folders as folders
from tests.inference.conftest import tokenizer as tokenizer
from tests.inference.test_http_scorer import serve_app

SETTINGS = EvaluationSettings(questions=8, max_tokens=8)
CASES = [SteeringCase(SHORT[n % 5], {"wit": n % 3, "calm": n % 2}) for n in range(40)]
"""The questions of the tests with all dials; some cases are repeated."""


@pytest.fixture
def url(folders: dict[str, Path]) -> Iterator[str]:
    running, port = serve_app(build_app(folders["policy"], "generate", ServeSettings(name="policy")))
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True


def job(
    folder: Path, model: Path, said: list[str], settings: EvaluationSettings = SETTINGS, devices: int = 2
) -> JobAnswerer:
    place = JobPlace("answers", folder / "job", folder / "log", Profile(name="test"))
    layout = LayoutSettings(devices=devices, threads=1)
    return JobAnswerer(model, settings, layout, place, folder / "parts", said.append)


def test_a_real_job_answers_alike(tmp_path: Path, folders: dict[str, Path]) -> None:
    said: list[str] = []
    cases = [*CASES, *(SteeringCase(f"question {n}?", {"wit": 4, "calm": n % 5}) for n in range(60))]
    wanted = InProcessAnswerer(folders["policy"], SETTINGS)
    shared = job(tmp_path, folders["policy"], said, devices=1)
    assert shared(cases) == wanted(cases)
    assert len(list((tmp_path / "parts").glob("*.part"))) == 2 and said[1:] == ["answers: block 2/2 of each worker"]
    assert shared.fitting(LONG + SHORT) == wanted.fitting(LONG + SHORT) == SHORT
    assert shared(cases) == wanted(cases), "and now of the parts that are there"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Jobs run here, one process after the other; the seeds and blocks they asked for."""
    started: list[int] = []

    def run(
        place: JobPlace,
        module: str,
        spec: GenerateSpec,
        layout: LayoutSettings,
        on_line: Callable[..., None],
        missing: Callable[[], bool],
    ) -> None:
        for rank in range(layout.processes):
            monkeypatch.setenv("RANK", str(rank))
            started.append(rank)
            worker.run(spec.model_copy(update={"layout": layout}))

    monkeypatch.setattr(job_answerer, "run_part_job", run)
    return started


def test_sampled_answers_do_not_depend_on_the_blocks(
    tmp_path: Path, folders: dict[str, Path], in_this_process: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = SETTINGS.model_copy(update={"temperature": 1.0})
    wanted = InProcessAnswerer(folders["policy"], warm)(CASES)
    assert CASES[0] == CASES[30] and wanted[0] != wanted[30], "a repeated case is drawn anew"
    for size in (1, 3, 64):
        monkeypatch.setattr(job_answerer, "BLOCK", size)
        assert job(tmp_path / str(size), folders["policy"], [], warm)(CASES) == wanted


def test_blocks_that_are_done_are_not_made_again(
    tmp_path: Path, folders: dict[str, Path], in_this_process: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_answerer, "BLOCK", 4)
    shared = job(tmp_path, folders["policy"], [])
    wanted = shared(CASES)
    assert in_this_process == [0, 1]
    first, second, *_ = sorted((tmp_path / "parts").glob("*.part"))
    stamp = first.stat().st_mtime_ns
    second.unlink()
    assert shared(CASES) == wanted and first.stat().st_mtime_ns == stamp
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(SteerLMError, match="the answers of block 0 are damaged"):
        shared(CASES)
    assert shared(CASES) == wanted and 0 in Parts(tmp_path / "parts")


def test_a_server_answers_as_the_policy_in_process(url: str, folders: dict[str, Path]) -> None:
    wanted = InProcessAnswerer(folders["policy"], SETTINGS)
    alone, named = ServedAnswerer(url, SETTINGS), ServedAnswerer(f"{url}/v1", SETTINGS, folders["policy"])
    assert alone(CASES) == named(CASES) == wanted(CASES)
    assert len(set(wanted(CASES))) > 5, "the dials and the questions tell in the answers"
    assert alone.schema == named.schema == wanted.schema == SCHEMA
    assert named.fitting(LONG + SHORT) == SHORT
    with pytest.raises(InputError, match=r"give the model's folder too \(--model\)"):
        alone.fitting(SHORT)
    with pytest.raises(InputError, match=r"/v1/chat/completions: HTTP 400: .*window"):
        alone([SteeringCase(LONG[0] * 9, {"wit": 1, "calm": 1})])


def test_servers_that_are_no_policys_are_refused(url: str, folders: dict[str, Path], tmp_path: Path) -> None:
    running, port = serve_app(build_app(folders["reward"], "reward", ServeSettings()))
    with pytest.raises(InputError, match=r"/v1/chat/completions: HTTP 404"):
        ServedAnswerer(f"http://127.0.0.1:{port}", SETTINGS)(CASES)
    other = folders["policy"]
    (other / "steerlm.json").write_text((other / "steerlm.json").read_text().replace('"wit"', '"fun"'))
    with pytest.raises(InputError, match="serves a policy of other attributes than"):
        ServedAnswerer(url, SETTINGS, other)
    with pytest.raises(SteerLMError, match="no answer within 0 s"):
        HttpChat("http://127.0.0.1:1", patience=0)
    running.should_exit = True


def test_the_profile_says_who_answers(url: str, folders: dict[str, Path], tmp_path: Path) -> None:
    def of(name: Any, **profile: Any) -> Any:
        work = StageContext("evaluate", "key", tmp_path, tmp_path / "out", Profile(name="p", **profile), print)
        return _answerer(name, {"policy": folders["policy"], "baseline": folders["policy"]}, SETTINGS, work)

    two = Layouts(evaluate=LayoutSettings(devices=2))
    here, plain = of("policy"), of("baseline", policy_url=url)
    assert isinstance(here, InProcessAnswerer) and here.schema == folder_schema(folders["policy"])
    assert isinstance(plain, InProcessAnswerer) and plain.schema is None
    assert isinstance(of("policy", layouts=two), JobAnswerer)
    assert of("baseline", layouts=two).schema is None
    assert isinstance(of("policy", layouts=two, policy_url=url), ServedAnswerer)
    with pytest.raises(ValueError, match=r"for a larger policy give the address of a server, profile\.policy_url"):
        Layouts(evaluate=LayoutSettings(devices=2, tensor=2))
