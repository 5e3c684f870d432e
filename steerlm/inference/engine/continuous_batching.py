# SPDX-License-Identifier: Apache-2.0
"""The parts of transformers' continuous batching that the engine is built on, behind a version check.

They are not public API: another version may rename them, or keep the names and behave differently. All imports of them
are here.
"""

from importlib.metadata import version

from steerlm.errors import InputError

OLDEST, BEYOND = (5, 19), (5, 24)
"""The engine's tests pass on transformers `OLDEST` and on every later version below `BEYOND`."""


def check_version(installed: str) -> None:
    """Raise `InputError` if the engine is not tested with this version of transformers."""
    major, minor = (int(part) for part in installed.split(".")[:2])
    if not OLDEST <= (major, minor) < BEYOND:
        tested = ">={}.{},<{}.{}".format(*OLDEST, *BEYOND)
        raise InputError(
            f"transformers {installed} is installed; the generation engine uses internals of its continuous batching "
            f"and is tested with {tested}: pip install 'transformers{tested}'"
        )


check_version(version("transformers"))

from transformers.generation.configuration_utils import ContinuousBatchingConfig  # noqa: E402
from transformers.generation.continuous_batching import PagedAttentionCache  # noqa: E402
from transformers.generation.continuous_batching.cb_logits_processors import (  # noqa: E402
    ContinuousBatchingLogitsProcessorList,
)

__all__ = ["ContinuousBatchingConfig", "ContinuousBatchingLogitsProcessorList", "PagedAttentionCache", "check_version"]
