# SPDX-License-Identifier: Apache-2.0
"""The container images that components run in."""

import steerlm


def image(name: str) -> str:
    """Return the image for a kind of work, `data` or `train`, of this version of SteerLM."""
    return f"steerlm/{name}:{steerlm.__version__}"
