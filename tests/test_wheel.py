# SPDX-License-Identifier: Apache-2.0
"""The built wheel, installed outside the checkout, carries everything the command line needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own; the dependencies stay those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder


def python(installed: Path, *args: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed / "site")}
    done = subprocess.run(
        [sys.executable, *args], cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_runs_from_the_wheel(installed: Path) -> None:
    assert "Commands:" in python(installed, "-m", "steerlm.cli", "--help")
    where = python(installed, "-c", "import steerlm, steerlm_kfp; print(steerlm.__file__, steerlm_kfp.__file__)")
    assert all(path.startswith(str(installed)) for path in where.split())


def test_recipes_components_and_pipelines_travel(installed: Path) -> None:
    recipes = python(installed, "-c", "import steerlm_kfp; print(*steerlm_kfp.recipes_folder().glob('recipes/*.yaml'))")
    assert "demo.yaml" in recipes
    site = installed / "site"
    carried = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    expected = {str(Path("steerlm_kfp") / p.relative_to(ROOT)) for p in (ROOT / "components").rglob("*.py")}
    assert expected
    assert expected <= carried
    assert "steerlm_kfp/images/images.yaml" in carried
    image = "from steerlm_kfp.components.images import image; print(image('train-reward'))"
    assert "/train-reward:" in python(installed, "-c", image)
    data_files = {str(p.relative_to(ROOT)) for p in (ROOT / "steerlm").rglob("*.jinja")}
    studio = ROOT / "steerlm" / "serving" / "studio" / "static"
    data_files |= {str(p.relative_to(ROOT)) for p in studio.iterdir()}
    assert len(data_files) > 20
    assert data_files <= carried
