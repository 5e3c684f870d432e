#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# process.sh stop | kill | start | restart NAME: one of the lab's processes, for tests of what happens without it.
# Names: etcd kube-apiserver kube-controller-manager kube-scheduler containerd kubelet kube-proxy kwok registry minio mlflow
. "$(dirname "$0")/env.sh"
[ $# = 2 ] || fail "$(sed -n 's/^# process/process/p' "$0")"
[ -e "$STATE/run/$2.sh" ] || fail "no process $2 was started; there are: $(cd "$STATE/run" && basename -s .sh -a ./*.sh | xargs)"
case $1 in
stop) stop "$2" ;;
kill) stop "$2" 0 ;;
start) [ -n "$(pid_of "$2")" ] || start "$2" ;;
restart)
  stop "$2"
  start "$2"
  ;;
*) fail "unknown verb $1: stop, kill, start or restart" ;;
esac
