#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Remove every trace of the cluster but the cache: processes, containers, mounts, network devices and rules, files.
. "$(dirname "$0")/env.sh"
[ -e "$STATE" ] || exit 0
containers() { ctr -a "$STATE/containerd/containerd.sock" -n k8s.io "$@" 2>/dev/null; }

for name in kwok kubelet kube-proxy kube-scheduler kube-controller-manager minio mlflow; do stop $name; done

# Pods are not asked to end: nothing of them is kept.
namespaces=()
if [ -n "$(pid_of containerd)" ]; then
  for container in $(containers container list -q); do
    namespaces+=("$(containers container info "$container" |
      jq -r '.Spec.linux.namespaces[]? | select(.type == "network") | .path // empty')")
  done
  no_tasks() {
    local task
    for task in $(containers task list -q); do
      containers task kill -s KILL "$task" || true
      containers task rm -f "$task" || true
    done
    [ -z "$(containers task list -q)" ]
  }
  await 60 "the end of all containers" no_tasks
  for container in $(containers container list -q); do containers container rm "$container"; done
fi
for name in kube-apiserver etcd registry containerd; do stop $name; done

awk -v state="$STATE/" 'index($2, state) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
for namespace in $(printf '%s\n' "${namespaces[@]}" | sort -u | grep /cni- || true); do
  ip netns delete "$(basename "$namespace")" 2>/dev/null || true
done
for device in labcni0 lab0; do ip link delete $device 2>/dev/null || true; done
for family in iptables ip6tables; do
  # Only the chains that kube-proxy, kubelet and the network plugins made.
  $family-save 2>/dev/null | grep -vE 'KUBE-|CNI-' | $family-restore 2>/dev/null || true
done
if [ -e "$STATE/run/ip_forward" ]; then sysctl -qw net.ipv4.ip_forward="$(cat "$STATE/run/ip_forward")"; fi

# What kubelet, containerd and the plugins leave at places of their own; never what another node on this machine uses.
find /var/log/containers -lname "$STATE/*" -delete 2>/dev/null || true
find /var/lib/cni/results \( -name 'lab-*' -o -name 'cni-loopback-*' \) -delete 2>/dev/null || true
if [ ! -e /var/lib/kubelet/pki ]; then rm -rf /var/lib/kubelet/device-plugins; fi
find /sys/fs/cgroup -depth -type d -path '*/k8s.io*' -exec rmdir {} + 2>/dev/null || true
for folder in /run/containerd/runc/k8s.io /run/containerd/runc /run/containerd/s /run/containerd /var/lib/cni/results \
  /var/lib/cni /var/lib/kubelet /var/log/containers; do
  rmdir $folder 2>/dev/null || true
done
rm -rf "$STATE"
echo "cluster removed; what was built stays in $CACHE"
