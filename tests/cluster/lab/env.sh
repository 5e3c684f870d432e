# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2016,SC2034
# Settings and functions that every script of the lab reads; not a command.
set -euo pipefail
LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/steerlm-lab # what takes long to make; stays after down.sh
STATE=/var/lib/steerlm-lab                        # everything a running cluster writes; down.sh removes it
NODE=node0
NODE_IP=10.200.0.1 # of the bridge lab0; every server listens here or on 127.0.0.1
POD_CIDR=10.244.0.0/24
FAKE_POD_CIDR=10.245.0.0/16
SERVICE_CIDR=10.96.0.0/16
KUBERNETES_IP=10.96.0.1
DNS_IP=10.96.0.10
API=https://$NODE_IP:6443
REGISTRY=$NODE_IP:5000
MLFLOW=http://$NODE_IP:5001
MINIO=http://$NODE_IP:9000
BASE_IMAGE=$REGISTRY/base/debian:12
FAKE_NODES=32
export KUBECONFIG=$STATE/kubeconfig
export KUBECACHEDIR=$STATE/kubectl-cache
export CONTAINERS_CONF=$LAB/containers.conf
export PATH=$CACHE/bin:/usr/sbin:/sbin:$PATH

fail() {
  echo "error: $*" >&2
  exit 1
}

STARTED=$(date +%s%N)
say() { # say WORDS: one line of progress, with the seconds since this script began
  printf '%6.1f s  %s\n' "$((($(date +%s%N) - STARTED) / 1000000))e-3" "$*"
}

pid_of() { # pid_of NAME: the process's id, when it runs
  local pid
  pid=$(cat "$STATE/run/$1.pid" 2>/dev/null) && [ -d "/proc/$pid" ] && echo "$pid"
}

start() { # start NAME [COMMAND...]: in the background; without a command, as it was started last
  local name=$1
  shift
  if [ $# -gt 0 ]; then
    {
      echo '#!/bin/bash'
      printf 'exec'
      printf ' %q' "$@"
      echo
    } >"$STATE/run/$name.sh"
  fi
  setsid -f bash -c 'echo $$ >"$1"; exec bash "$2"' - "$STATE/run/$name.pid.new" "$STATE/run/$name.sh" \
    >>"$STATE/logs/$name.log" 2>&1 </dev/null
  until [ -s "$STATE/run/$name.pid.new" ]; do sleep 0.01; done
  mv "$STATE/run/$name.pid.new" "$STATE/run/$name.pid"
}

stop() { # stop NAME [SECONDS]: SIGTERM; after the seconds SIGKILL, also to its children
  local pid until
  pid=$(pid_of "$1") || return 0
  kill "$pid"
  until=$((SECONDS + ${2:-5}))
  while [ -d "/proc/$pid" ]; do
    if [ $SECONDS -ge $until ]; then kill -9 -- "-$pid" 2>/dev/null || true; fi
    sleep 0.1
  done
}

await() { # await SECONDS WHAT COMMAND...: until the command succeeds
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || fail "$what did not come up; its log is in $STATE/logs"
    sleep 0.2
  done
}

module() { # module PATH: the folder of a Go module that tools/ops names
  (cd "$LAB/tools/ops" && go list -m -f '{{.Dir}}' "$1")
}

# built NAME FILES...: whether NAME was made from exactly these inputs; done_with NAME: from now on it was.
built() {
  local name=$1
  shift
  mkdir -p "$CACHE/stamps"
  cat "$@" | sha256sum >"$CACHE/stamps/$name.new"
  cmp -s "$CACHE/stamps/$name.new" "$CACHE/stamps/$name"
}
done_with() {
  mv "$CACHE/stamps/$1.new" "$CACHE/stamps/$1"
}
