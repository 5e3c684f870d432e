# SPDX-License-Identifier: Apache-2.0
"""Whether this machine is the one that a profile is for. Torch-free: it counts cores and the driver's devices."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from steerlm.errors import ConfigError
from steerlm.jobs.registry import LOCAL
from steerlm.recipe import Profile
from steerlm.training.layout import LayoutSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """The cores that this process may use, the GPUs that are visible to it, and whether Transformer Engine is there."""

    cores: int
    gpus: int
    has_te: bool = True

    @classmethod
    def this(cls, devices: Path = Path("/dev")) -> "Machine":
        """Return this machine. `devices`: the folder of device files; `CUDA_VISIBLE_DEVICES` hides GPUs as usual."""
        gpus = len([path for path in devices.glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal()])
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            named = [name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
            gpus = min(gpus, len(named)) if gpus else 0
        return cls(len(os.sched_getaffinity(0)), gpus, find_spec("transformer_engine") is not None)

    @property
    def profile(self) -> str:
        """The shipped profile for a machine like this."""
        return "eight-gpus" if self.gpus >= 8 else "one-gpu" if self.gpus else "laptop"

    def __str__(self) -> str:
        def count(number: int, name: str) -> str:
            return f"{number or 'no'} {name}{'' if number == 1 else 's'}"

        return f"{count(self.cores, 'core')} and {count(self.gpus, 'GPU')}"


def check_machine(profile: Profile, layouts: Mapping[str, LayoutSettings], machine: Machine | None = None) -> None:
    """Warn where a profile is for other hardware than this machine's.

    Args:
        profile: Where the work runs.
        layouts: The layouts that are used, by section.
        machine: Another machine than this one.

    Raises:
        ConfigError: A layout asks for a GPU that is not there.
    """
    if profile.backend != LOCAL:
        return
    here = machine or Machine.this()
    instead = f"this machine has {here}: use --profile {here.profile}"
    for name, layout in layouts.items():
        if layout.attention == "te" and not here.gpus:
            raise ConfigError(f"{name}: attention te needs a GPU, and {instead}, or attention: auto")
        if layout.attention == "te" and not here.has_te:
            raise ConfigError(f"{name}: attention te needs Transformer Engine, which is not installed; auto does not")
        if here.gpus and layout.devices > here.gpus:
            raise ConfigError(
                f"{name}: profile {profile.name} starts {layout.devices} processes, each on a GPU, and {instead}"
            )
    most = max((layout.devices for layout in layouts.values()), default=1)
    if profile.gpu and not here.gpus:
        log.warning("warning: profile %s is for %s GPUs; %s", profile.name, profile.gpu, instead)
    elif not here.gpus and most > here.cores:
        log.warning("warning: profile %s starts %d processes; %s", profile.name, most, instead)
