#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The image that stands in for a vendor's where no registry can be reached: Debian 12 with Python 3.11, ssh and OpenMPI,
# as an OCI layout in the cache. The running lab serves it as base/debian:12, the BASE_IMAGE of the product's images.
. "$(dirname "$0")/env.sh"
built base-image "$LAB/base_image.sh" "$LAB/nslookup" && exit
mkdir -p "$CACHE/images"
folder=$(mktemp -d "$CACHE/base.XXXXXX")
trap 'rm -rf "$folder"' EXIT
lab_podman() { podman --root "$folder/storage" --runroot "$folder/run" "$@"; }
include=ca-certificates,libgomp1,openmpi-bin,openssh-client,openssh-server,python3,python3-venv
# A tar of a fixed time and without caches: the same packages give the same layer.
# shellcheck disable=SC2016 # mmdebstrap's $1
SOURCE_DATE_EPOCH=1700000000 mmdebstrap --quiet --variant=minbase --mode=root --include=$include \
  --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --customize-hook="copy-in $LAB/nslookup /usr/local/bin" \
  --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' bookworm "$folder/root.tar"
lab_podman import --quiet --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'CMD ["/bin/bash"]' "$folder/root.tar" base >/dev/null
rm -rf "$CACHE/images/base"
lab_podman push --quiet base "oci:$CACHE/images/base:latest"
done_with base-image
say "base image"
