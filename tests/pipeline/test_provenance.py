# SPDX-License-Identifier: Apache-2.0
"""The code that decides a stage's result, on a small package and on SteerLM's own."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from steerlm.pipeline.provenance import RESULT_NEUTRAL, changed_files, code_digests, modules

FILES = {
    "__init__.py": '__version__ = "1"\n',
    "stage.py": "'Doc.'\nfrom pkg.room import work\n\ndef make():\n    from pkg.late import x\n    return work(x)\n",
    "room/__init__.py": "",
    "room/work.py": "import json\n\n\ndef work(x):\n    '''Works.'''\n    return json.dumps(x)\n",
    "room/errors.py": "import logging\n\nlog = logging.getLogger()\n\n\ndef check(x, report_progress):\n"
    "    assert x, f'no {x}'\n    log.info('checked %s', x)\n    report_progress(f'{x} done')\n"
    "    if x > 5:\n        raise ValueError(f'{x} is large, give ' + str(5))\n    return 'text'\n",
    "late.py": "from pkg.room.errors import check\nx: int = 1\n'''What x is.'''\n",
    "unrelated.py": "y = 2\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pkg"


def digest(package: Path, *without: str) -> dict[str, str]:
    return code_digests(["pkg.stage"], without, package)


def test_an_import_anywhere_in_a_module_counts(package: Path) -> None:
    assert list(modules(["pkg.stage"], (), package)) == [
        "pkg.late",
        "pkg.room",
        "pkg.room.errors",
        "pkg.room.work",
        "pkg.stage",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "changes"),
    [
        ("stage.py", "return work", "return 2 and work", True),
        ("room/work.py", "return json", "return 2 and json", True),
        ("late.py", "= 1", "= 2", True),
        ("room/__init__.py", "", "z = 3\n", True),
        ("stage.py", "    return", "    # why\n    return", False),
        ("stage.py", "Doc.", "Another.", False),
        ("room/work.py", "Works.", "Toils.", False),
        ("late.py", "What x is.", "What it is.", False),
        ("late.py", "x: int = 1", "x: int  =  1", False),
        ("unrelated.py", "y = 2", "y = 3", False),
        ("room/errors.py", "no {x}", "zero", False),
        ("room/errors.py", "checked %s", "found %d", False),
        ("room/errors.py", "    log.info('checked %s', x)\n", "", False),
        ("room/errors.py", "{x} done", "done", False),
        ("room/errors.py", "is large, give ", "is more than ", False),
        ("room/errors.py", "> 5", "> 6", True),
        ("room/errors.py", "str(5)", "str(6)", True),
        ("room/errors.py", "ValueError", "TypeError", True),
        ("room/errors.py", "return 'text'", "return 'other'", True),
        ("__init__.py", "1", "2", False),
    ],
)
def test_code_counts_and_texts_do_not(package: Path, name: str, old: str, new: str, changes: bool) -> None:
    before = digest(package)
    path = package / name
    path.write_text(path.read_text().replace(old, new, 1) if old else new)
    assert changed_files(before, digest(package)) == ([name] if changes else [])


def test_a_template_belongs_to_its_module(package: Path) -> None:
    before = digest(package)
    (package / "other.html").write_text("<p>")
    assert digest(package) == before
    (package / "late.txt.jinja").write_text("{{ x }}")
    assert changed_files(before, digest(package)) == ["late.txt.jinja"]


def test_a_module_that_is_left_out_takes_its_imports_along(package: Path) -> None:
    assert list(modules(["pkg.stage"], ["pkg.room"], package)) == ["pkg.late", "pkg.stage"]


def closure(stage: str) -> set[str]:
    definition = import_module(f"steerlm.stages.{stage}").STAGE
    return set(modules(definition.code, definition.without))


def test_modules_that_decide_no_result_exist() -> None:
    for name in RESULT_NEUTRAL:
        assert find_spec(name), f"{name} was renamed or removed: follow it in RESULT_NEUTRAL"


def test_modules_that_decide_no_result_are_left_out() -> None:
    for stage in ("prepare_data", "train_base", "train_reward", "annotate", "train_sft", "evaluate"):
        names = closure(stage)
        assert not {n for n in names if n.startswith(("steerlm.jobs", "steerlm.cli", "steerlm.recipe"))}
        assert not names & {"steerlm.artifact", "steerlm.storage", "steerlm.pipeline.tracking", "steerlm"}


def test_a_training_stage_is_its_worker_and_one_objective() -> None:
    names = closure("train_reward")
    assert {"steerlm.megatron.engine", "steerlm.training.loop", "steerlm.training.objectives.reward"} <= names
    assert "steerlm.training.objectives.sft" not in names
    assert not {n for n in names if n.startswith(("steerlm.datasets", "steerlm.serving", "steerlm.toyworld"))}


def test_data_does_not_depend_on_training() -> None:
    names = closure("prepare_data")
    assert {"steerlm.datasets.sources.oasst", "steerlm.toyworld.make", "steerlm.prompt"} <= names
    assert not {n for n in names if n.startswith(("steerlm.training", "steerlm.megatron", "steerlm.inference"))}
