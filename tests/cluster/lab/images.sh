#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The images of the cluster's own programs, as OCI layouts in the cache: one static program each FROM scratch.
. "$(dirname "$0")/env.sh"
folder=$(mktemp -d "$CACHE/images.XXXXXX")
trap 'rm -rf "$folder"' EXIT
lab_podman() { podman --root "$folder/storage" --runroot "$folder/run" "$@"; }

# image NAME USER PROGRAM-IN-IMAGE: of the program of that name in the cache
image() {
  local layout=$CACHE/images/$1
  if [ "$layout/index.json" -nt "$CACHE/bin/$1" ]; then return; fi
  rm -rf "$layout" "$folder/context"
  mkdir -p "$folder/context/root/tmp" "$folder/context/root$(dirname "$3")"
  chmod 1777 "$folder/context/root/tmp"
  cp "$CACHE/bin/$1" "$folder/context/root$3"
  printf 'FROM scratch\nCOPY root/ /\nUSER %s\nENTRYPOINT ["%s"]\n' "$2" "$3" >"$folder/context/Containerfile"
  lab_podman build --quiet --format oci --timestamp 0 --tag "$1" "$folder/context" >/dev/null
  lab_podman push --quiet "$1" "oci:$layout:latest"
}
image pause 65535 /pause
image coredns 0 /coredns # it binds port 53
image training-operator 65532 /manager
image mpi-operator 65532 /opt/mpi-operator
image jobset 65532 /manager
image trainer 65532 /manager
image kueue 65532 /manager
