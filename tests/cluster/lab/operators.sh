#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The operators as pods, by the manifests in their own Go modules, with the changes under operators/.
. "$(dirname "$0")/env.sh"

prepare() { # prepare NAME MODULE FOLDER: a writable copy of the module's manifests beside our kustomization
  mkdir -p "$STATE/operators"
  cp -r "$LAB/operators/$1" "$STATE/operators/$1"
  sed -i "s|REGISTRY/|$REGISTRY/|" "$STATE/operators/$1"/*.yaml
  cp -r "$(module "$2")/$3" "$STATE/operators/$1/src"
  chmod -R u+w "$STATE/operators/$1/src"
}
apply() { # apply NAME
  kubectl apply --server-side --force-conflicts -k "$STATE/operators/$1" >/dev/null
  say "$1 applied"
}
ready() { # ready NAMESPACE DEPLOYMENT
  kubectl -n "$1" rollout status "deployment/$2" --timeout=300s >/dev/null
  say "$2 ready"
}

prepare training-operator github.com/kubeflow/training-operator manifests
prepare mpi-operator github.com/kubeflow/mpi-operator manifests
prepare jobset sigs.k8s.io/jobset config
prepare trainer github.com/kubeflow/trainer/v2 manifests
prepare kueue sigs.k8s.io/kueue config
sed -i '/third-party\/jobset/d' "$STATE/operators/trainer/src/overlays/manager/kustomization.yaml"
cp "$STATE/operators/kueue/controller_manager_config.yaml" "$STATE/operators/kueue/src/components/manager/"

kubectl create namespace jobset-system >/dev/null
kubectl create namespace kueue-system >/dev/null
for name in training-operator mpi-operator jobset trainer; do apply $name; done
ready kubeflow training-operator
ready mpi-operator mpi-operator
ready jobset-system jobset-controller-manager
ready kubeflow-system kubeflow-trainer-controller-manager
# Kueue last: while it starts, its fail-closed webhooks refuse every job that the others' start may make.
apply kueue
ready kueue-system kueue-controller-manager
