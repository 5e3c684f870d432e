# SPDX-License-Identifier: Apache-2.0
"""A profile on a machine that it is not for."""

import logging
from pathlib import Path

import pytest

from steerlm.errors import ConfigError
from steerlm.recipe import load_profile, shipped
from steerlm.training.layout import LayoutSettings
from steerlm.trainjob.machine import Machine, check_machine

LAPTOP, ONE, EIGHT = Machine(cores=2, gpus=0), Machine(cores=16, gpus=1), Machine(cores=96, gpus=8)


@pytest.mark.parametrize(
    ("profile", "machine", "warning"),
    [
        ("laptop", LAPTOP, None),
        ("laptop", EIGHT, None),
        ("two-processes", LAPTOP, None),
        ("one-gpu", ONE, None),
        ("one-gpu", EIGHT, None),
        ("eight-gpus", EIGHT, None),
        (
            "one-gpu",
            LAPTOP,
            "warning: profile one-gpu is for rtx-4090 GPUs; this machine has 2 cores and no GPUs: use --profile laptop",
        ),
        (
            "eight-gpus",
            LAPTOP,
            "warning: profile eight-gpus is for h100 GPUs; this machine has 2 cores and no GPUs: use --profile laptop",
        ),
        (
            "two-processes",
            Machine(cores=1, gpus=0),
            "warning: profile two-processes starts 2 processes; this machine has 1 core and no GPUs: "
            "use --profile laptop",
        ),
    ],
)
def test_another_machine_is_a_warning_with_the_profile_for_it(
    profile: str, machine: Machine, warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_profile(profile)
    with caplog.at_level(logging.WARNING):
        check_machine(loaded, {"sft": loaded.layouts.sft}, machine)
    assert caplog.messages == ([warning] if warning else [])
    assert machine.profile in shipped("profiles")


@pytest.mark.parametrize(
    ("profile", "layout", "machine", "message"),
    [
        (
            "eight-gpus",
            LayoutSettings(devices=8),
            ONE,
            "sft: profile eight-gpus starts 8 processes, each on a GPU, and this machine has 16 cores and 1 GPU: "
            "use --profile one-gpu",
        ),
        (
            "laptop",
            LayoutSettings(attention="te"),
            LAPTOP,
            "sft: attention te needs a GPU, and this machine has 2 cores and no GPUs: use --profile laptop, "
            "or attention: auto",
        ),
        (
            "one-gpu",
            LayoutSettings(attention="te"),
            Machine(cores=16, gpus=1, has_te=False),
            "sft: attention te needs Transformer Engine, which is not installed; auto does not",
        ),
    ],
)
def test_what_is_asked_for_and_absent_is_an_error(
    profile: str, layout: LayoutSettings, machine: Machine, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_machine(load_profile(profile), {"sft": layout}, machine)
    assert str(caught.value) == message


@pytest.mark.parametrize(("visible", "gpus"), [(None, 2), ("0", 1), ("0,1,2", 2), ("", 0), ("-1", 0)])
def test_gpus_are_the_driver_s_devices_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Machine.this(tmp_path).gpus == gpus
    assert Machine.this(tmp_path / "none").gpus == 0
