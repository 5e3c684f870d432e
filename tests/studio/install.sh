#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the studio's tests need beside Python: a Chromium, axe-core and eslint, the last two at the versions and checksums
# of package-lock.json. Usage: install.sh FOLDER. Chromium is Debian's, which is installed if there is none, as root;
# STEERLM_CHROMIUM names another one. Node.js is not installed: Debian's may be older than eslint needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "error: $*" >&2; exit 2; }

wanted="Node.js 20.19, 22.13, or 24 and newer (https://nodejs.org)"
command -v npm >/dev/null || fail "npm is missing: install $wanted, which has it"
node -e 'const [a, b] = process.versions.node.split(".").map(Number);
  process.exit((a === 20 && b >= 19) || (a === 22 && b >= 13) || a >= 24 ? 0 : 1)' ||
  fail "eslint needs $wanted; this is $(node --version)"

if [[ -n ${STEERLM_CHROMIUM:-} ]]; then
  [[ -x $STEERLM_CHROMIUM ]] || fail "STEERLM_CHROMIUM=$STEERLM_CHROMIUM is no program; name a Chromium"
elif ! command -v chromium >/dev/null; then
  how="install a Chromium and name it: STEERLM_CHROMIUM=/path/to/chromium make test-studio"
  command -v apt-get >/dev/null || fail "no Chromium and no apt-get here; $how"
  [[ $(id -u) == 0 ]] || fail "no Chromium here, and only root can apt-get install chromium; or $how"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null; } ||
    fail "apt-get install chromium failed (above is why); or $how"
  command -v chromium >/dev/null || fail "apt-get's chromium has no program of that name; $how"
fi

mkdir -p "$1"
cp "$here"/{package.json,package-lock.json,.npmrc,eslint.config.js} "$1"
cd "$1"
npm ci --ignore-scripts --no-audit --no-fund --silent || fail "npm ci failed in $PWD; npm ci there says why"
touch .ready
