#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# etcd, API server, controller manager and scheduler, as processes of this machine.
. "$(dirname "$0")/env.sh"
pki=$STATE/pki

start etcd etcd --name lab --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
  --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
  --initial-cluster lab=http://127.0.0.1:12380

start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:12379 \
  --bind-address="$NODE_IP" --advertise-address="$NODE_IP" --secure-port=6443 \
  --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
  --kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
  --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
  --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
  --requestheader-username-headers=X-Remote-User \
  --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$pki/service-accounts.pub" \
  --service-account-signing-key-file="$pki/service-accounts.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --service-cluster-ip-range="$SERVICE_CIDR" \
  --audit-policy-file="$LAB/audit-policy.yaml" --audit-log-path="$STATE/logs/audit.log" --audit-log-maxsize=1000
await 90 "the API server" kubectl get --raw /readyz

# A silent node is NotReady after 20 s instead of 50, so that tests of lost nodes need not wait that long.
start kube-controller-manager kube-controller-manager --bind-address=127.0.0.1 --leader-elect=false \
  --kubeconfig="$pki/kube-controller-manager.kubeconfig" \
  --authentication-kubeconfig="$pki/kube-controller-manager.kubeconfig" \
  --authorization-kubeconfig="$pki/kube-controller-manager.kubeconfig" \
  --service-account-private-key-file="$pki/service-accounts.key" --root-ca-file="$pki/ca.crt" \
  --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
  --use-service-account-credentials=true --node-monitor-grace-period=20s --node-monitor-period=2s

start kube-scheduler kube-scheduler --bind-address=127.0.0.1 --leader-elect=false \
  --kubeconfig="$pki/kube-scheduler.kubeconfig" --authentication-kubeconfig="$pki/kube-scheduler.kubeconfig" \
  --authorization-kubeconfig="$pki/kube-scheduler.kubeconfig"
say "control plane"
