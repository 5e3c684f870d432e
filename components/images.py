# SPDX-License-Identifier: Apache-2.0
"""Which image a component runs in: one per kind of work, of this version."""

import steerlm


def image(name: str) -> str:
    return f"steerlm/{name}:{steerlm.__version__}"
