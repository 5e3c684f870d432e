#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# services.sh start | publish: registry (with the cluster's images), MinIO and MLflow as processes of this machine;
# then their Services in the cluster, by whose names pods reach them, and lab.json, which says where all of it is.
. "$(dirname "$0")/env.sh"

push() { # push NAME REPOSITORY:TAG: an image of the cache
  skopeo copy --quiet --dest-tls-verify=false "oci:$CACHE/images/$1:latest" "docker://$REGISTRY/$2"
}

start_all() {
  local name
  mkdir -p "$STATE/registry"
  cat >"$STATE/registry.yaml" <<END
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
http: {addr: "$REGISTRY"}
storage:
  filesystem: {rootdirectory: $STATE/registry}
  delete: {enabled: true}
END
  start registry env OTEL_TRACES_EXPORTER=none registry serve "$STATE/registry.yaml"
  mkdir -p "$STATE/minio" "$STATE/mlflow/artifacts"
  (
    # In the environment, which other users cannot read, and not among the words of the command.
    umask 077
    cat >"$STATE/minio.env" <<END
MINIO_ROOT_USER=steerlm-lab
MINIO_ROOT_PASSWORD=$(openssl rand -hex 16)
MINIO_CI_CD=1
MINIO_UPDATE=off
MINIO_CALLHOME_ENABLE=off
MINIO_BROWSER=off
END
  )
  # shellcheck disable=SC2016 # expanded by the inner shell
  start minio bash -c 'set -a; . "$1"; exec minio server --quiet --address "$2" "$3"' - \
    "$STATE/minio.env" "${MINIO#http://}" "$STATE/minio"
  # No check of the Host header: pods say the Service's name, in any of its forms.
  start mlflow env MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 "$LAB_PYTHON" -m mlflow server \
    --host "$NODE_IP" --port "${MLFLOW##*:}" --workers 1 --allowed-hosts '*' \
    --backend-store-uri "sqlite:///$STATE/mlflow/store.db" \
    --serve-artifacts --artifacts-destination "$STATE/mlflow/artifacts"
  await 30 "the registry" curl -fs "http://$REGISTRY/v2/"
  for name in pause coredns training-operator mpi-operator jobset trainer kueue; do
    push "$name" "lab/$name:lab"
  done
  push base base/debian:12
  say "registry"
}

publish() {
  services | kubectl apply -f - >/dev/null
  await 60 MinIO curl -fs "$MINIO/minio/health/ready"
  await 300 MLflow curl -fs "$MLFLOW/health"
  say "MinIO and MLflow"
  # shellcheck disable=SC1091
  . "$STATE/minio.env"
  (
    umask 077
    cat >"$STATE/lab.json" <<END
{
  "kubeconfig": "$KUBECONFIG",
  "registry": "$REGISTRY",
  "base_image": "$BASE_IMAGE",
  "minio": {"address": "$MINIO", "in_cluster": "http://minio.steerlm-lab.svc:9000",
            "access_key": "$MINIO_ROOT_USER", "secret_key": "$MINIO_ROOT_PASSWORD"},
  "mlflow": {"address": "$MLFLOW", "in_cluster": "http://mlflow.steerlm-lab.svc:5001"},
  "audit_log": "$STATE/logs/audit.log",
  "volumes": "$STATE/volumes",
  "containers_conf": "$CONTAINERS_CONF",
  "scripts": "$LAB"
}
END
  )
}

services() { # Services without a selector, whose one endpoint is this machine
  printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: steerlm-lab}\n'
  local name port
  for name in minio:9000 mlflow:5001; do
    port=${name#*:}
    name=${name%:*}
    cat <<END
---
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: steerlm-lab}
spec: {ports: [{port: $port}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $name, namespace: steerlm-lab, labels: {kubernetes.io/service-name: $name}}
addressType: IPv4
ports: [{port: $port}]
endpoints: [{addresses: [$NODE_IP]}]
END
  done
}

case $1 in
start) start_all ;;
publish) publish ;;
esac
