#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The Python packages of requirements.txt beside this file. Run once, as root, while a base image is built.
#
# VENV           a new environment's folder; empty: the packages go to the base's own Python, beside its torch
# TORCH_BACKEND  where torch comes from: `cpu` or `cuNNN`, an index of PyTorch's; empty: the package index
# /run/secrets/index         if mounted, shell assignments such as UV_DEFAULT_INDEX, which stay out of the image
# /run/secrets/certificates  if mounted, the certificates to trust
# /var/cache/uv              if mounted, packages that were downloaded before
set -eu

if [ -f /run/secrets/index ]; then
    set -a
    . /run/secrets/index
    set +a
fi
if [ -f /run/secrets/certificates ]; then
    export SSL_CERT_FILE=/run/secrets/certificates PIP_CERT=/run/secrets/certificates
fi
if [ -d /var/cache/uv ]; then
    export UV_CACHE_DIR=/var/cache/uv
else
    export UV_NO_CACHE=1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$(dirname "$0")/requirements.txt" "$work/requirements.txt"

python3 -m venv "$work/uv"
PIP_CONSTRAINT='' "$work/uv/bin/python" -m pip install --quiet --no-cache-dir uv==0.13.9
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never

if [ -n "${VENV:-}" ]; then
    "$work/uv/bin/uv" venv --quiet --python "$(command -v python3)" "$VENV"
    set -- --python "$VENV/bin/python"
    # Without a GPU there is nothing for Triton to compile for; PyTorch's CPU builds do not ask for it.
    sed -i '/^triton==/d' "$work/requirements.txt"
    printf 'triton; sys_platform == "never"\n' >"$work/overrides.txt"
    set -- "$@" --overrides "$work/overrides.txt"
    if [ -n "${TORCH_BACKEND:-}" ]; then
        # Each build of torch asks for libraries of its own; the list has those of the package index's.
        sed -i -E '/^(nvidia-|cuda-)/d' "$work/requirements.txt"
        set -- "$@" --torch-backend "$TORCH_BACKEND"
    fi
else
    # torch and its libraries are the base's: they fit each other, Transformer Engine and the fabric.
    torch=$(python3 -c 'import importlib.metadata as m; print(m.version("torch"))')
    sed -i -E '/^(torch|triton|nvidia-|cuda-)/d' "$work/requirements.txt"
    printf 'torch; sys_platform == "never"\ntriton; sys_platform == "never"\n' >"$work/overrides.txt"
    set -- --python "$(command -v python3)" --break-system-packages --overrides "$work/overrides.txt"
fi
"$work/uv/bin/uv" pip install --quiet --compile-bytecode "$@" -r "$work/requirements.txt"

if [ -n "${VENV:-}" ]; then
    rm -f "$VENV/.lock" # uv's, which everyone may write
    # The package index's torch cannot be loaded without CUDA's libraries. These it opens only when a GPU is used: 1 GB.
    find "$VENV" -path '*/nvidia/*' \( -name 'libcudnn_*' -o -name 'libcusolver*' -o -name 'libnvrtc.alt*' \
        -o -name 'libnvperf*' -o -name 'libnvshmem_device*' \) -delete
    if [ -x "$VENV/bin/torchrun" ]; then
        "$VENV/bin/python" -c 'import torch; torch.linalg.inv(torch.eye(2))'
    fi
else
    python3 -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch") != sys.argv[1])' "$torch"
fi
