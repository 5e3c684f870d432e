# SPDX-License-Identifier: Apache-2.0
"""The container images that components run in: one per stage, as `images/images.yaml` names them."""

from steerlm.jobs.kubernetes.config import ImageSettings
from steerlm.jobs.kubernetes.images import reference


def image(name: str, settings: ImageSettings | None = None) -> str:
    """Return the reference of a stage's image, such as `train-reward`; `settings` replace registry and tag."""
    return reference(name, settings)
