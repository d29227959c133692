#!/bin/sh
# Compiles Kubernetes 1.20 from an unpacked Debian source package, offline.
#
#   kubernetes.sh TREE GOROOT GOCODE OUT VERSION
#
# TREE is the unpacked source, GOROOT a Go 1.19, GOCODE a folder of Debian's Go source packages (.../usr/share/gocode/src),
# OUT the folder that receives the binaries. Everything else that is written lies beside TREE.
set -eu

tree=$1 goroot=$2 gocode=$3 out=$4 version=$5

work=$(dirname "$tree")
mkdir -p "$work/gopath/src/k8s.io" "$work/gocache" "$out"
rm -f "$work/gopath/src/k8s.io/kubernetes"
mv "$tree" "$work/gopath/src/k8s.io/kubernetes"

export GOROOT="$goroot" GOPATH="$work/gopath" GOCACHE="$work/gocache" HOME="$work"
export GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0
# The same for both builds, so that the second finds what the first has compiled. Nobody debugs these programs.
export GOFLAGS="-trimpath -gcflags=all=-dwarf=false"
# The compiler would spend a quarter of its time on collecting garbage, of which each process has but some hundred megabytes.
export GOGC=off GOMEMLIMIT=1GiB
export PATH="$goroot/bin:$PATH"

cd "$work/gopath/src/k8s.io/kubernetes"

# The vendored reflect2 reads a layout of runtime types that Go 1.18 changed, and panics there.
for module in reflect2 concurrent; do
    rm -rf "vendor/github.com/modern-go/$module"
    cp -r "$gocode/github.com/modern-go/$module" "vendor/github.com/modern-go/$module"
    rm -f "vendor/github.com/modern-go/$module"/*_test.go
done

# The API server's OpenAPI definitions are generated code that the source package does not carry.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
tagged=$(
    {
        grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin 2>/dev/null
        grep -rl --include='*.go' '+k8s:openapi-gen=' staging/src/k8s.io | sed 's,^staging/src/,vendor/,'
    } | grep -v -e _test.go -e /testdata/ -e /_examples/ -e sample-apiserver -e kube-aggregator/pkg/generated \
      | xargs -n1 dirname | LC_ALL=C sort -u
)
inputs=$(for folder in $tagged; do printf ',k8s.io/kubernetes/%s' "$folder"; done)
"$work/openapi-gen" --logtostderr \
    -i "${inputs#,}" \
    -p k8s.io/kubernetes/pkg/generated/openapi \
    -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt \
    -r "$work/openapi-violations"

minor=${version#v1.}
minor=${minor%%.*}
flags=
for package in k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
    flags="$flags -X $package.gitCommit=debian -X $package.gitTreeState=archive -X $package.buildDate=2021-01-13T00:00:00Z"
done
# Kubernetes' own build tags: without the Docker runtime, for which a kubelet otherwise waits five seconds at each start, and
# without cloud providers, of which a node in a container has none.
exec go build -tags dockerless,providerless -ldflags "-s -w $flags" -o "$out/" \
    ./cmd/kubeadm ./cmd/kubelet ./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-scheduler ./cmd/kube-proxy
