#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# System packages, the user and his home. Run once, as root, while a base image is built: system.sh [PACKAGE...]
set -eu

uid=1000
home=/home/steerlm

export DEBIAN_FRONTEND=noninteractive
apt-get update
# An image with a Python of its own keeps it; Debian's comes without venv.
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    set -- "$@" python3-venv
fi
# A vendor's OpenMPI, built for its fabric, is kept.
if command -v mpirun >/dev/null; then
    set -- $(printf '%s\n' "$@" | grep -vx openmpi-bin)
fi
apt-get install -y --no-install-recommends ca-certificates libnss-extrausers "$@"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
# Host keys in an image would be the same everywhere: they are made when a pod starts.
rm -f /etc/ssh/ssh_host_*

# The base may have a user of its own with the id, such as Ubuntu's.
if existing=$(getent passwd "$uid"); then
    userdel "${existing%%:*}"
fi
groupadd --gid "$uid" steerlm
useradd --uid "$uid" --gid "$uid" --no-create-home --home-dir "$home" --shell /bin/bash steerlm
# Root's group may write too: clusters that give every namespace user ids of its own run pods in that group.
install -d -o "$uid" -g 0 -m 0775 "$home"
install -d -m 0755 /opt/steerlm

# A profile may name another user id. ssh refuses one without a name, which the pod can put in /tmp/extrausers/passwd.
sed -i -E '/extrausers/!s/^(passwd|group):(.*)$/\1:\2 extrausers/' /etc/nsswitch.conf
rm -rf /var/lib/extrausers
ln -s /tmp/extrausers /var/lib/extrausers
