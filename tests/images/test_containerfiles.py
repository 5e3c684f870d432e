# SPDX-License-Identifier: Apache-2.0
"""The files that images are built from; tests/cluster/test_images.py builds and runs some of them."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

import steerlm
from images.build import containerfile
from images.lock import EXTRAS, requirements_file
from steerlm.jobs.kubernetes.images import catalog, reference
from tests.conftest import ROOT

BASES = [name for name, entry in catalog().images.items() if entry.base is None]
OTHERS = [name for name, entry in catalog().images.items() if entry.base]


def test_hadolint_finds_nothing() -> None:
    files = sorted(map(str, (ROOT / "images").rglob("Containerfile")))
    assert len(files) == len(catalog().images)
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "--no-color", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_each_image_has_a_file_and_each_file_an_image() -> None:
    assert set((ROOT / "images").rglob("Containerfile")) == {containerfile(name) for name in catalog().images}


def test_the_release_and_every_stage_have_their_images() -> None:
    assert catalog().tag == steerlm.__version__
    stages = {path.parent.name.replace("_", "-") for path in (ROOT / "components").glob("*/component.py")}
    assert len(stages) == 8
    assert stages <= set(OTHERS)


@pytest.mark.parametrize("name", catalog().images)
def test_the_file_builds_with_any_builder(name: str) -> None:
    text = containerfile(name).read_text(encoding="utf-8")
    assert "syntax=" not in text
    assert "<<" not in text
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|PASSWORD|SECRET|INDEX_URL)", text, re.MULTILINE)


@pytest.mark.parametrize("name", BASES)
def test_a_base_ends_as_a_numeric_user_without_root(name: str) -> None:
    text = containerfile(name).read_text(encoding="utf-8")
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["0", "1000:1000"]
    (default,) = re.findall(r"^ARG BASE_IMAGE=(.*)$", text, re.MULTILINE)
    assert re.search(r":\d+\.\d+[\w.-]*$", default), "an exact tag"


@pytest.mark.parametrize("name", OTHERS)
def test_the_code_is_the_last_layer_on_a_base(name: str) -> None:
    lines = containerfile(name).read_text(encoding="utf-8").splitlines()
    assert lines[2] == f"ARG BASE={reference(f'base-{catalog().images[name].base}')}"
    assert lines[-1] == "COPY . /opt/steerlm/"
    assert [line.split()[0] for line in lines if re.match("(RUN|COPY|ADD|USER|SHELL) ", line)] == ["COPY"]
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT ")]
    assert yaml.safe_load(entry.removeprefix("ENTRYPOINT "))[0] in ("steerlm", "python3")
    assert f'LABEL org.opencontainers.image.title="{name}" \\' in lines


@pytest.mark.parametrize("base", EXTRAS)
def test_the_packages_of_a_base_are_those_of_the_constraints(base: str) -> None:
    constraints = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    packages = [line for line in requirements_file(base).read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert len(packages) > 100
    assert set(packages) <= constraints
    names = {line.split("==")[0] for line in packages}
    assert {"kfp", "mlflow", "kubernetes", "minio", "transformers"} <= names
    assert ("torch" in names) == (base != "launcher")
    assert not any(name.startswith("nvidia") for name in names) or base != "launcher"


def test_uv_is_installed_in_the_version_of_the_constraints() -> None:
    (version,) = re.findall(r" (uv==\S+)", (ROOT / "images" / "base" / "packages.sh").read_text(encoding="utf-8"))
    assert version in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_the_manifests_name_images_of_this_release() -> None:
    known = {reference(name) for name in catalog().images}
    known |= {f"{one}-cpu" for one in known}  # as DEVICE=cpu tags them
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "manifests").rglob("*.yaml")]
    named = {image for text in texts for image in re.findall(rf"{re.escape(catalog().registry)}/\S+", text)}
    assert named
    assert named <= known
