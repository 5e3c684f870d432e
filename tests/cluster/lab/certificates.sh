#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The cluster's certificates, keys and kubeconfigs. All are made here and none outlives the cluster.
. "$(dirname "$0")/env.sh"
mkdir -p "$STATE/pki"
chmod 700 "$STATE/pki"
cd "$STATE/pki"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

authority() { # authority NAME
  key "$1"
  openssl req -x509 -new -key "$1.key" -days 30 -subj "/CN=$1" -out "$1.crt" \
    -addext keyUsage=critical,keyCertSign,cRLSign
}

certificate() { # certificate NAME AUTHORITY SUBJECT [ALTERNATIVE NAMES]
  key "$1"
  openssl req -new -key "$1.key" -subj "$3" -out "$1.csr"
  {
    echo keyUsage=critical,digitalSignature,keyEncipherment
    echo extendedKeyUsage=serverAuth,clientAuth
    if [ -n "${4:-}" ]; then echo "subjectAltName=$4"; fi
  } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 30 -extfile "$1.ext" \
    -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

kubeconfig() { # kubeconfig NAME FILE
  cat >"$2" <<END
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "$API", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: lab, context: {cluster: lab, user: $1}}]
current-context: lab
END
  chmod 600 "$2"
}

authority ca
authority front-proxy-ca
names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate apiserver ca /CN=kube-apiserver "$names,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:$KUBERNETES_IP"
certificate apiserver-kubelet ca /O=system:masters/CN=apiserver-kubelet-client
certificate front-proxy front-proxy-ca /CN=front-proxy-client
certificate admin ca /O=system:masters/CN=admin
certificate kwok ca /O=system:masters/CN=kwok # its own name, so that the audit log can leave it out
certificate kube-controller-manager ca /CN=system:kube-controller-manager
certificate kube-scheduler ca /CN=system:kube-scheduler
certificate kube-proxy ca /CN=system:kube-proxy
certificate kubelet ca "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
openssl genrsa -out service-accounts.key 2048 2>/dev/null
openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
kubeconfig admin "$KUBECONFIG"
for name in kwok kube-controller-manager kube-scheduler kube-proxy kubelet; do
  kubeconfig $name $name.kubeconfig
done
