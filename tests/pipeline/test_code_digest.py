# SPDX-License-Identifier: Apache-2.0
"""What counts as a stage's code, on a small package made for it and on our own."""

from importlib import import_module
from pathlib import Path

import pytest

from steerlm.pipeline.code_digest import code_digest, modules

FILES = {
    "__init__.py": '__version__ = "1"\n',
    "stage.py": "'Doc.'\nfrom pkg.room import work\n\ndef make():\n    from pkg.late import x\n    return work(x)\n",
    "room/__init__.py": "",
    "room/work.py": "import json\n\n\ndef work(x):\n    '''Works.'''\n    return json.dumps(x)\n",
    "late.py": "x: int = 1\n'''What x is.'''\n",
    "unrelated.py": "y = 2\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pkg"


def digest(package: Path, *without: str) -> str:
    return code_digest(["pkg.stage"], without, package)


def test_imports_are_found_wherever_they_stand(package: Path) -> None:
    assert list(modules(["pkg.stage"], (), package)) == ["pkg.late", "pkg.room", "pkg.room.work", "pkg.stage"]


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
        ("__init__.py", "1", "2", False),
    ],
)
def test_code_counts_and_words_do_not(package: Path, name: str, old: str, new: str, changes: bool) -> None:
    before = digest(package)
    path = package / name
    path.write_text(path.read_text().replace(old, new, 1) if old else new)
    assert (digest(package) != before) == changes


def test_a_template_belongs_to_its_module(package: Path) -> None:
    before = digest(package)
    (package / "other.html").write_text("<p>")
    assert digest(package) == before
    (package / "late.txt.jinja").write_text("{{ x }}")
    assert digest(package) != before


def test_what_is_left_out_takes_its_imports_along(package: Path) -> None:
    assert list(modules(["pkg.stage"], ["pkg.room"], package)) == ["pkg.late", "pkg.stage"]


def closure(stage: str) -> set[str]:
    found = import_module(f"steerlm.stages.{stage}").STAGE
    return set(modules(found.code, found.without))


def test_plumbing_re_runs_nothing() -> None:
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
