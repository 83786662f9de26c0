#!/bin/bash
# PID 1 inside the node's own mount, PID, UTS, IPC and network namespaces: starts every component, reaps, waits.
# Variables: STATE BIN NAME NODE NODE_ADDRESS SERVICE_RANGE DNS_ADDRESS. Killing this process ends everything.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount --make-rprivate /
mount --make-rshared /
hostname "$NODE"
ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
for directory in /run /var/log /var/lib/cni; do mkdir -p $directory; mount -t tmpfs tmpfs $directory; done
mkdir -p /run/netns /run/lock
mount -t tmpfs -o mode=700 tmpfs "$STATE/etcd"
# The kubelet writes these global settings; show it, in this mount namespace only, that they are as it wants them.
mkdir /run/sysctl
pretend() { echo "$2" >"/run/sysctl/$(basename "$1")"; mount --bind "/run/sysctl/$(basename "$1")" "$1"; }
pretend /proc/sys/vm/overcommit_memory 1
pretend /proc/sys/kernel/panic 10
pretend /proc/sys/kernel/panic_on_oops 1
echo 1 >/proc/sys/net/ipv4/ip_forward
ip addr add "$DNS_ADDRESS/32" dev lo
for hierarchy in /sys/fs/cgroup/*/; do
  [ -d "$hierarchy$NAME" ] || continue
  mkdir -p "$hierarchy$NAME/system"
  if [ "$hierarchy" = /sys/fs/cgroup/cpuset/ ]; then
    for file in cpus mems; do cat "$hierarchy$NAME/cpuset.$file" >"$hierarchy$NAME/system/cpuset.$file"; done
  fi
  echo 0 >"$hierarchy$NAME/system/cgroup.procs" 2>/dev/null || true
done
LOG=$STATE/log PKI=$STATE/pki
start() { name=$1; shift; "$@" >>"$LOG/$name.log" 2>&1 & echo "$name $!" >>/run/pids; }
apiserver() {
  start kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 \
    --advertise-address="$NODE_ADDRESS" --service-cluster-ip-range="$SERVICE_RANGE" \
    --tls-cert-file="$PKI/server.crt" --tls-private-key-file="$PKI/server.key" --client-ca-file="$PKI/ca.crt" \
    --token-auth-file="$PKI/tokens.csv" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --allow-privileged=true --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$PKI/sa.key" --service-account-signing-key-file="$PKI/sa.key" \
    --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" \
    --kubelet-preferred-address-types=InternalIP --profiling=false
}
start containerd containerd -c "$STATE/containerd.toml"
start etcd env GOGC=50 "$BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --auto-compaction-retention 1h
apiserver
( for archive in "$IMAGES"/*.tar; do
    [ -e "$archive" ] || continue
    until ctr version >/dev/null 2>&1; do sleep 0.1; done
    ctr -n k8s.io images import "$archive"
  done; touch /run/images-imported "$STATE/images-imported" ) >>"$LOG/import.log" 2>&1 &
until "$BIN/kubectl" --kubeconfig "$STATE/kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$STATE/controller-manager.conf" \
  --use-service-account-credentials --kube-api-qps=500 --kube-api-burst=1000 --leader-elect=false \
  --root-ca-file="$PKI/ca.crt" --service-account-private-key-file="$PKI/sa.key" --bind-address=127.0.0.1 --profiling=false
start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$STATE/scheduler.conf" --leader-elect=false --bind-address=127.0.0.1 \
  --profiling=false
start kubelet "$BIN/kubelet" --config="$STATE/kubelet.yaml" --kubeconfig="$STATE/kubelet.conf" --hostname-override="$NODE" \
  --node-ip="$NODE_ADDRESS" --root-dir="$STATE/kubelet" --cert-dir="$STATE/kubelet/pki"
start kube-proxy "$BIN/kube-proxy" --config="$STATE/proxy.yaml"
start coredns "$BIN/coredns" -conf "$STATE/Corefile"
# The API server can be stopped from outside (a test of faults); it is started again when its stop file is gone.
trap 'exit 0' TERM
while :; do
  if [ ! -e "$STATE/stop-apiserver" ]; then
    pid=$(awk '$1 == "kube-apiserver" { last = $2 } END { print last }' /run/pids)
    kill -0 "$pid" 2>/dev/null || apiserver
  fi
  wait -n 2>/dev/null || true
  sleep 0.5
done
