#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Start the cluster, or say where it stands when it runs already.
. "$(dirname "$0")/env.sh"
export LAB_PYTHON=${LAB_PYTHON:-$(readlink -f "$LAB/../../..")/.venv/bin/python}

addresses() {
  cat <<END
kubeconfig  $KUBECONFIG
registry    $REGISTRY (plain HTTP; $BASE_IMAGE is there)
MinIO       $MINIO (in pods http://minio.steerlm-lab.svc:9000)
MLflow      $MLFLOW (in pods http://mlflow.steerlm-lab.svc:5001)
all of it, with the credentials: $STATE/lab.json
END
}

if [ -e "$STATE" ]; then
  if [ -e "$STATE/lab.json" ] && kubectl get --raw /readyz >/dev/null 2>&1; then
    addresses
    exit
  fi
  fail "a cluster stands half: make cluster-down, then again"
fi
"$LAB_PYTHON" -c 'import mlflow' 2>/dev/null || fail "no MLflow in $LAB_PYTHON: run make cluster, or set LAB_PYTHON"
"$LAB/build.sh"
trap 'echo "error: the cluster did not come up; logs are in $STATE/logs, make cluster-down removes it" >&2' ERR
mkdir -p "$STATE/run" "$STATE/logs"
chmod 711 "$STATE"
# Not every kernel has dummy devices, but an empty bridge can carry the node's address too.
ip link add lab0 type bridge
ip addr add "$NODE_IP/24" dev lab0
ip link set lab0 up
"$LAB/services.sh" start
"$LAB/certificates.sh"
"$LAB/control-plane.sh"
"$LAB/node.sh"
sed "s|REGISTRY/|$REGISTRY/|" "$LAB/coredns.yaml" | kubectl apply -f - >/dev/null
"$LAB/fake-nodes.sh" start
kubectl -n kube-system rollout status deployment/coredns --timeout=300s >/dev/null
"$LAB/operators.sh"
"$LAB/services.sh" publish
say "cluster up"
addresses
