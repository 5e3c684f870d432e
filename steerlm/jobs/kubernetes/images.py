# SPDX-License-Identifier: Apache-2.0
"""References of the container images, which `images/images.yaml` names for jobs and components alike."""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from steerlm.configuration import load_settings
from steerlm.errors import ConfigError, nearest
from steerlm.jobs.kubernetes.config import ImageSettings
from steerlm.settings import Settings


class ImageEntry(Settings):
    """One image of `images/images.yaml`.

    Attributes:
        base: What it is built on: `base-gpu` or `base-launcher`; None: it is a base itself.
        digest: Fixes its content; it then has no tag.
    """

    base: Literal["gpu", "launcher"] | None = None
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None


class ImageCatalog(Settings):
    """The content of `images/images.yaml`."""

    registry: str
    tag: str
    images: dict[str, ImageEntry]


@cache
def catalog() -> ImageCatalog:
    """Return the images of this installation.

    Raises:
        ConfigError: The file has a mistake.
    """
    from steerlm_kfp import images_file

    return load_settings(images_file(), ImageCatalog)


def reference(name: str, settings: ImageSettings | None = None) -> str:
    """Return the reference of an image, such as `ghcr.io/steerlm/train-reward:0.2.0`.

    Args:
        name: Its name in `images/images.yaml`.
        settings: Registry and tag that replace those of the file, whose digest is then another image's.

    Raises:
        ConfigError: No image has this name.
    """
    known = catalog()
    if name not in known.images:
        raise ConfigError(f"image {name!r} is not in images/images.yaml{nearest(name, known.images)}")
    settings = settings or ImageSettings()
    repository = f"{settings.registry or known.registry}/{name}"
    digest = known.images[name].digest
    if digest and settings.registry is None and settings.tag is None:
        return f"{repository}@{digest}"
    return f"{repository}:{settings.tag or known.tag}"
