# SPDX-License-Identifier: Apache-2.0
"""The Kubeflow side of SteerLM: `components/`, `pipelines/` and the recipes, from a checkout and from a wheel alike.

A wheel has the two folders inside this package. In a checkout they are beside it, where the ecosystem expects them, so
the package's search path is extended by the checkout's root.
"""

from pathlib import Path

_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "pipelines").is_dir():
    __path__.append(str(_root))


def recipes_folder() -> Path:
    """Return the folder that contains `recipes` and `profiles`, the shipped recipes and profiles."""
    for base in map(Path, __path__):
        if (base / "pipelines" / "recipes").is_dir():
            return base / "pipelines"
    raise FileNotFoundError("the shipped recipes are missing from this installation of steerlm; re-install it")


def images_file() -> Path:
    """Return `images/images.yaml`, which says where the container images are."""
    for base in map(Path, __path__):
        if (path := base / "images" / "images.yaml").is_file():
            return path
    raise FileNotFoundError("images/images.yaml is missing from this installation of steerlm; re-install it")
