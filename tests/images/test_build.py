# SPDX-License-Identifier: Apache-2.0
"""Which images are built, by which commands, and what a build may know of this machine."""

import subprocess
import sys

import pytest

from images.build import BuildOptions, build_command, in_order, index_settings
from steerlm.errors import InputError
from steerlm.jobs.kubernetes.config import ImageSettings
from steerlm.jobs.kubernetes.images import catalog, reference

OPTIONS = BuildOptions(
    builder="docker",
    device="cpu",
    settings=ImageSettings(registry="registry.example:5000/team", tag="7-cpu"),
    base_image=None,
    torch_backend=None,
    build_flags=("--network=host",),
    push_flags=None,
)


def test_bases_come_first_and_once() -> None:
    assert in_order(["train-reward", "launcher", "train-sft"], "gpu") == [
        "base-gpu",
        "base-launcher",
        "train-reward",
        "launcher",
        "train-sft",
    ]
    assert in_order(["base-cpu"], "gpu") == ["base-cpu"]
    everything = in_order([], "cpu")
    assert everything[:2] == ["base-launcher", "base-cpu"]
    assert {*everything, "base-gpu"} == set(catalog().images)


def test_an_unknown_image_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"there is no image 'train-rewards' .*; did you mean 'train-reward'"):
        in_order(["train-rewards"], "gpu")


def test_a_stage_is_built_on_the_base_of_the_device() -> None:
    command = build_command("train-reward", OPTIONS, ["id=index,src=/x"], "abc")
    assert "--build-arg=BASE=registry.example:5000/team/base-cpu:7-cpu" in command
    assert "--build-arg=REVISION=abc" in command
    assert command[command.index("--tag") + 1] == "registry.example:5000/team/train-reward:7-cpu"
    assert not any("secret" in word for word in command), "it installs nothing"
    assert "--network=host" in command


def test_a_base_gets_the_secrets_and_only_the_cpu_one_a_source_of_torch() -> None:
    options = BuildOptions(
        builder="docker",
        device="cpu",
        settings=ImageSettings(),
        base_image="debian:12",
        torch_backend="",
        build_flags=(),
        push_flags=None,
    )
    command = build_command("base-cpu", options, ["id=index,src=/x"], "abc")
    assert {"--secret=id=index,src=/x", "--build-arg=BASE_IMAGE=debian:12", "--build-arg=TORCH_BACKEND="} <= {*command}
    assert "--build-arg=TORCH_BACKEND=" not in build_command("base-launcher", options, [], "abc")


def test_pips_index_is_uvs_too_unless_uv_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    assert index_settings() == ""
    monkeypatch.setenv("PIP_INDEX_URL", "https://u:p$w@index.example/simple")
    assert index_settings() == (
        "PIP_INDEX_URL='https://u:p$w@index.example/simple'\nUV_DEFAULT_INDEX='https://u:p$w@index.example/simple'\n"
    )
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other.example/simple")
    assert index_settings().endswith("UV_DEFAULT_INDEX=https://other.example/simple\n")


def test_the_program_fails_with_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "images.build", "train"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no image 'train' in images/images.yaml; did you mean 'train-")


def test_a_digest_fixes_an_image_until_registry_or_tag_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = catalog().model_copy(deep=True)
    digest = f"sha256:{'0' * 64}"
    fixed.images["report"] = fixed.images["report"].model_copy(update={"digest": digest})
    monkeypatch.setattr("steerlm.jobs.kubernetes.images.catalog", lambda: fixed)
    assert reference("report") == f"ghcr.io/steerlm/report@{digest}"
    assert reference("report", ImageSettings(tag="1")) == "ghcr.io/steerlm/report:1"
    assert reference("launcher", ImageSettings(registry="r:5000/x")) == f"r:5000/x/launcher:{fixed.tag}"
