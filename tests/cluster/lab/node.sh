#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The one node that runs containers: containerd, kubelet and kube-proxy, as processes of this machine.
. "$(dirname "$0")/env.sh"
pki=$STATE/pki

sysctl -n net.ipv4.ip_forward >"$STATE/run/ip_forward" # for down.sh
sysctl -qw net.ipv4.ip_forward=1
sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true

# Some virtual machines may neither lower an OOM score nor set huge-page limits, hence the two containerd options.
mkdir -p "$STATE/containerd/certs.d/$REGISTRY" "$STATE/cni" "$STATE/volumes"
cat >"$STATE/containerd/certs.d/$REGISTRY/hosts.toml" <<END
server = "http://$REGISTRY"
[host."http://$REGISTRY"]
  capabilities = ["pull", "resolve"]
END
cat >"$STATE/containerd/config.toml" <<END
version = 2
root = "$STATE/containerd/root"
state = "$STATE/containerd/run"
oom_score = 0
[grpc]
  address = "$STATE/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$STATE/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$REGISTRY/lab/pause:lab"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$STATE/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni"
END
cat >"$STATE/cni/10-lab.conflist" <<END
{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "labcni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$STATE/cni/addresses", "ranges": [[{"subnet": "$POD_CIDR"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
start containerd containerd -c "$STATE/containerd/config.toml"
await 30 containerd ctr -a "$STATE/containerd/containerd.sock" version

# Pods with dnsPolicy Default get no DNS from outside. The short syncFrequency matters to the operators, which wait
# until the Secret with their webhook's certificate reaches the mounted volume (80 s with the default minute).
echo "nameserver 127.0.0.1" >"$STATE/resolv.conf"
cat >"$STATE/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
authentication: {x509: {clientCAFile: $pki/ca.crt}, webhook: {enabled: true}, anonymous: {enabled: false}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$STATE/containerd/containerd.sock
enforceNodeAllocatable: []
evictionHard: {memory.available: 200Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
failCgroupV1: false
failSwapOn: false
healthzBindAddress: 127.0.0.1
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 240h
maxPods: 200
nodeLeaseDurationSeconds: 20
oomScoreAdj: 0
podLogsDir: $STATE/pod-logs
resolvConf: $STATE/resolv.conf
serializeImagePulls: false
syncFrequency: 5s
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
END
start kubelet kubelet --kubeconfig="$pki/kubelet.kubeconfig" --config="$STATE/kubelet.yaml" \
  --hostname-override="$NODE" --node-ip="$NODE_IP" --root-dir="$STATE/kubelet" --cert-dir="$STATE/kubelet-pki" --v=1

cat >"$STATE/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/kube-proxy.kubeconfig}
clusterCIDR: $POD_CIDR
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
hostnameOverride: $NODE
metricsBindAddress: 127.0.0.1:10249
mode: iptables
END
start kube-proxy kube-proxy --config="$STATE/kube-proxy.yaml"
await 60 "the node" kubectl get node "$NODE"
kubectl wait node "$NODE" --for=condition=Ready --timeout=60s >/dev/null
say "node"
