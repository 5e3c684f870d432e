#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fake-nodes.sh start: KWOK and its nodes gpu-00 to gpu-31, 8 fake GPUs each; pods on them run without containers.
# fake-nodes.sh add NUMBER...: more nodes, `add 32` the 33rd.  remove NAME...: fewer.
# fake-nodes.sh silence NAME...: the node stops answering, NotReady after 20 s, and its pods' end is never reported.
# fake-nodes.sh wake NAME...: it answers again.
. "$(dirname "$0")/env.sh"

add() {
  local number name names=()
  for number in "$@"; do names+=("$(printf 'gpu-%02d' "$number")"); done
  for name in "${names[@]}"; do
    number=$((10#${name#gpu-}))
    cat <<END
---
apiVersion: v1
kind: Node
metadata:
  name: $name
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {kubernetes.io/hostname: $name, type: kwok, topology.lab/rack: rack-$((number / 8))}
spec:
  taints: [{key: kwok.x-k8s.io/node, value: fake, effect: NoSchedule}]
status:
  allocatable: {cpu: "192", memory: 2Ti, ephemeral-storage: 4Ti, pods: "110", nvidia.com/gpu: "8"}
  capacity: {cpu: "192", memory: 2Ti, ephemeral-storage: 4Ti, pods: "110", nvidia.com/gpu: "8"}
END
  done | kubectl apply -f - >/dev/null
  kubectl wait node "${names[@]}" --for=condition=Ready --timeout=60s >/dev/null
}

run_kwok() {
  local stages=$STATE/kwok-stages.yaml source name
  source=$(module sigs.k8s.io/kwok)/kustomize/stage
  # Without pod/fast/pod-complete, which ends a batch Job's pods at once: those of a TrainJob would never be seen to run.
  for name in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease \
    pod/fast/pod-ready pod/fast/pod-delete; do
    cat "$source/$name.yaml"
    printf '\n---\n'
  done >"$stages"
  cat "$LAB/kwok-stages.yaml" >>"$stages"
  start kwok kwok --kubeconfig="$STATE/pki/kwok.kubeconfig" --config="$stages" --node-ip="$NODE_IP" \
    --cidr="$FAKE_POD_CIDR" --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake \
    --node-lease-duration-seconds=20
  # shellcheck disable=SC2046 # one word a number
  add $(seq 0 $((FAKE_NODES - 1)))
  say "$FAKE_NODES fake nodes"
}

lease() { # lease FIELDS NODE...: KWOK looks after a node, and after the end of its pods, while it holds the node's Lease
  local node
  for node in "${@:2}"; do
    kubectl -n kube-node-lease patch lease "$node" --type=merge --patch "{\"spec\": {$1}}" >/dev/null
  done
}

verb=${1:-}
shift || true
case $verb in
start) run_kwok ;;
add) add "$@" ;;
remove) kubectl delete node "$@" ;;
silence) lease '"holderIdentity": "nobody", "leaseDurationSeconds": 86400' "$@" ;;
wake) lease '"leaseDurationSeconds": 1' "$@" ;;
*) fail "$(sed -n 's/^# fake/fake/p' "$0")" ;;
esac
