#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the studio's tests need beside Python: a Chromium, axe-core and eslint, the last two at the versions and checksums
# of package-lock.json. Usage: install.sh FOLDER. Debian's and Ubuntu's Chromium is installed if there is none, as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
if [[ -z ${STEERLM_CHROMIUM:-} ]] && ! command -v chromium >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq chromium
fi
cp "$here"/{package.json,package-lock.json,.npmrc,eslint.config.js} "$1"
cd "$1"
npm ci --ignore-scripts --no-audit --no-fund --silent
touch .ready
