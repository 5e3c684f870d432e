# SPDX-License-Identifier: Apache-2.0
"""Builds the container images of `images/images.yaml` with podman or docker: `make images` (images/README.md).

Which package index is asked, and which certificates are trusted, are this machine's own: they reach the build as
secrets, and no image contains them.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import steerlm
from steerlm.errors import InputError, SteerLMError, nearest
from steerlm.jobs.kubernetes.config import ImageSettings
from steerlm.jobs.kubernetes.images import catalog, reference

ROOT = Path(__file__).resolve().parent.parent
Device = Literal["gpu", "cpu"]
INDEX_VARIABLES = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
)
"""Variables of this process that packages are installed with."""
CACHE = "/var/cache/uv"
"""Where images/base/packages.sh looks for uv's cache."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How images are built and where they go.

    Attributes:
        builder: `podman` or `docker`.
        device: Whether what trains and serves is built on the base with CUDA or on the one without.
        settings: Registry and tag; None: those of `images/images.yaml`, the tag with `-cpu` where device is `cpu`.
        base_image: What the bases are built on; None: the default of their Containerfiles.
        torch_backend: Where the base without CUDA gets torch from; None: PyTorch's index of CPU builds.
        build_flags: Further words for `podman build`.
        push_flags: Further words for `podman push`; None: nothing is pushed.
    """

    builder: str
    device: Device
    settings: ImageSettings
    base_image: str | None
    torch_backend: str | None
    build_flags: Sequence[str]
    push_flags: Sequence[str] | None


def base_of(name: str, device: Device) -> str | None:
    """Return the name of the base image that an image is built on; None for a base."""
    base = catalog().images[name].base
    if base is None:
        return None
    return f"base-{device}" if base == "gpu" else f"base-{base}"


def in_order(names: Sequence[str], device: Device) -> list[str]:
    """Return the images to build: the named ones (none: all for the device), after the bases that they need.

    Raises:
        InputError: There is no image of a name.
    """
    known = catalog().images
    for name in names:
        if name not in known:
            raise InputError(f"there is no image {name!r} in images/images.yaml{nearest(name, known)}")
    wanted = list(names) or [name for name in known if known[name].base]
    bases = [name for name in wanted if known[name].base is None]
    bases += [base for name in wanted if (base := base_of(name, device))]
    return [*dict.fromkeys(bases), *(name for name in wanted if known[name].base)]


def containerfile(name: str) -> Path:
    """Return the file that an image is built from."""
    return ROOT / "images" / name.replace("base-", "base/", 1) / "Containerfile"


def index_settings() -> str:
    """Return this machine's package index as assignments for a shell."""
    values = {name: os.environ[name] for name in INDEX_VARIABLES if os.environ.get(name)}
    for pip, uv in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
        if pip in values and uv.replace("UV_DEFAULT_INDEX", "UV_INDEX_URL") not in values:
            values.setdefault(uv, values[pip])
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def build_command(name: str, options: BuildOptions, secrets: Sequence[str], revision: str) -> list[str]:
    """Return the command that builds an image."""
    base = base_of(name, options.device)
    command = [options.builder, "build", "--file", str(containerfile(name))]
    command += ["--tag", reference(name, options.settings)]
    if options.builder == "podman":
        command += ["--layers", "--format", "oci"]
    if base:
        arguments = {"BASE": reference(base, options.settings), "VERSION": steerlm.__version__, "REVISION": revision}
    else:
        arguments = {"BASE_IMAGE": options.base_image} if options.base_image else {}
        if name == "base-cpu" and options.torch_backend is not None:
            arguments["TORCH_BACKEND"] = options.torch_backend
        command += [f"--secret={secret}" for secret in secrets]
        cache = _uv_cache()
        if options.builder == "podman" and cache:
            command.append(f"--volume={cache}:{CACHE}")
    command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
    return [*command, *options.build_flags, str(ROOT)]


def build(names: Sequence[str], options: BuildOptions) -> None:
    """Build images and push them, with a line for each: seconds, size, and what it adds to its base.

    Raises:
        SteerLMError: A build or a push failed; its output has been shown.
    """
    revision = _revision()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        index.touch(mode=0o600)
        index.write_text(index_settings(), encoding="utf-8")
        secrets = [f"id=index,src={index}"]
        if certificates := os.environ.get("SSL_CERT_FILE"):
            secrets.append(f"id=certificates,src={certificates}")
        for name in in_order(names, options.device):
            start = time.monotonic()
            _run(build_command(name, options, secrets, revision), quiet=True)
            _report(name, options, time.monotonic() - start)
    if options.push_flags is not None:
        for name in in_order(names, options.device):
            start = time.monotonic()
            _run([options.builder, "push", *options.push_flags, reference(name, options.settings)], quiet=True)
            print(f"pushed {reference(name, options.settings)}  {time.monotonic() - start:.1f} s", flush=True)


def _report(name: str, options: BuildOptions, seconds: float) -> None:
    size = _size(reference(name, options.settings), options)
    base = base_of(name, options.device)
    own = f", {(size - _size(reference(base, options.settings), options)) / 1e6:.1f} MB its own" if base else ""
    print(f"{reference(name, options.settings)}  {size / 1e6:,.0f} MB{own}  {seconds:.1f} s", flush=True)


def _size(image: str, options: BuildOptions) -> int:
    return int(_run([options.builder, "image", "inspect", "--format", "{{.Size}}", image], quiet=True))


def _run(command: Sequence[str], quiet: bool) -> str:
    """Return what a command prints, which is shown if it fails."""
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}  # an older docker has no secrets without it
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed; BUILDER=docker builds with docker") from None
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SteerLMError(f"{shlex.join(command)} failed (exit code {done.returncode})")
    return done.stdout


def _uv_cache() -> Path | None:
    """Return the folder in which uv keeps packages on this machine, if there is one."""
    done = subprocess.run([sys.executable, "-m", "uv", "cache", "dir"], capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip()) if done.returncode == 0 else None
    return folder if folder and folder.is_dir() else None


def _revision() -> str:
    """Return the commit of the checkout, with `-dirty` if it was changed since; `unknown` outside one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m images.build", description="Build the container images.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="an image of images/images.yaml; default: all")
    parser.add_argument("--builder", default="podman", choices=("podman", "docker"))
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"), help="for what trains and serves")
    parser.add_argument("--registry", help="registry and path; default: that of images/images.yaml, without a push")
    parser.add_argument("--tag", help="default: that of images/images.yaml, with -cpu where the device is cpu")
    parser.add_argument("--base-image", help="what the bases are built on, instead of their Containerfile's")
    parser.add_argument("--torch-backend", help="for the device cpu: an index of PyTorch's; '': the package index")
    parser.add_argument("--build-flags", default="", help="further words for the builder's command build")
    parser.add_argument("--push-flags", default="", help="further words for the builder's command push")
    options = parser.parse_args(arguments)
    tag = options.tag or (f"{catalog().tag}-cpu" if options.device == "cpu" else None)
    try:
        build(
            options.names,
            BuildOptions(
                builder=options.builder,
                device=cast(Device, options.device),
                settings=ImageSettings(registry=options.registry, tag=tag),
                base_image=options.base_image,
                torch_backend=options.torch_backend,
                build_flags=shlex.split(options.build_flags),
                push_flags=shlex.split(options.push_flags) if options.registry else None,
            ),
        )
    except SteerLMError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
