#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Everything of the lab that takes long to make, into the cache: Debian packages, Go programs, images.
# A second run finds it all there and takes seconds.
. "$(dirname "$0")/env.sh"
[ "$(id -u)" = 0 ] || fail "the lab needs root (containers, network devices, mounts); or name a cluster in STEERLM_KUBECONFIG"
command -v go >/dev/null || fail "the lab is built with Go 1.26 or later, which is not on PATH"
mkdir -p "$CACHE/bin"

packages=(conntrack containerd containernetworking-plugins curl ebtables ethtool iproute2 ipset iptables jq kmod
  mmdebstrap openssl podman runc skopeo socat)
# dpkg-query fails when it has never heard of one of them.
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
missing=$(awk '$2 == "installed" {print $1}' <<<"$installed" | sort | comm -13 - <(printf '%s\n' "${packages[@]}" | sort))
if [ -n "$missing" ]; then
  apt-get update -qq
  # shellcheck disable=SC2086 # one word a package
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing >/dev/null
fi
say "packages"

# One set of flags for all, so that they share Go's cache. No cgo: static programs, which images FROM scratch can hold.
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
kubernetes=$(cd "$LAB/tools/kube" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${kubernetes#v}"
link="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  link="$link -X $package.gitVersion=$kubernetes -X $package.gitMajor=$major -X $package.gitMinor=$minor"
  link="$link -X $package.gitTreeState=archive -X $package.gitCommit=none -X $package.buildDate=1970-01-01T00:00:00Z"
done

compiler=$(go version)

if ! built kube "$LAB"/tools/kube/go.* "$LAB/build.sh" - <<<"$compiler"; then
  (cd "$LAB/tools/kube" && go build -ldflags "$link" -o "$CACHE/bin/" tool)
  mv "$CACHE/bin/server" "$CACHE/bin/etcd"
  done_with kube
fi
say "Kubernetes $kubernetes and etcd"

if ! built ops "$LAB"/tools/ops/go.* "$LAB"/tools/ops/*/main.go "$LAB/build.sh" - <<<"$compiler"; then
  (cd "$LAB/tools/ops" && go build -ldflags "-s -w" -o "$CACHE/bin/" tool)
  mv "$CACHE/bin/training-operator.v1" "$CACHE/bin/training-operator"
  mv "$CACHE/bin/trainer-controller-manager" "$CACHE/bin/trainer"
  done_with ops
fi
say "operators, KWOK, CoreDNS"

# Programs whose dependencies need not fit the others'. MinIO's version is the Makefile's, where the store's test reads it.
minio=$(sed -n 's/^MINIO_VERSION *= *//p' "$LAB/../../../Makefile")
for program in github.com/distribution/distribution/v3/cmd/registry@v3.0.0 "github.com/minio/minio@$minio" \
  helm.sh/helm/v4/cmd/helm@v4.3.1 github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0; do
  name=${program%@*}
  name=${name##*/}
  if ! built "$name" - <<<"$program $compiler"; then
    GOBIN="$CACHE/bin" go install -ldflags "-s -w" "$program"
    done_with "$name"
  fi
  say "$name ${program##*@}"
done

"$LAB/base_image.sh"
"$LAB/images.sh"
say "images"
