"""Configuration files of the node's components, as text."""

from __future__ import annotations

from pathlib import Path

from .paths import DNS_ADDRESS, NAME, NODE, PAUSE_IMAGE, POD_RANGE


def containerd(state: Path) -> str:
    return f"""version = 2
root = "{state}/containerd/root"
state = "/run/ecompile-containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni() -> str:
    return f"""{{"cniVersion": "1.0.0", "name": "{NAME}", "plugins": [
 {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {{"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{{"subnet": "{POD_RANGE}"}}]],
   "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
 {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"""


def kubelet(state: Path) -> str:
    return f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /{NAME}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {state}/pki/ca.crt}}
authorization: {{mode: Webhook}}
clusterDomain: cluster.local
clusterDNS: [{DNS_ADDRESS}]
resolvConf: {state}/resolv.conf
makeIPTablesUtilChains: false
podLogsDir: /var/log/pods
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: 200Mi}}
enforceNodeAllocatable: [pods]
kubeAPIQPS: 500
kubeAPIBurst: 1000
nodeStatusUpdateFrequency: 10s
nodeStatusReportFrequency: 5m
serializeImagePulls: false
registerNode: true
shutdownGracePeriod: 0s
syncFrequency: 10s
configMapAndSecretChangeDetectionStrategy: Watch
"""


def proxy(state: Path) -> str:
    return f"""apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {state}/proxy.conf}}
mode: iptables
clusterCIDR: 10.254.0.0/16
hostnameOverride: {NODE}
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
iptables: {{minSyncPeriod: 0s, localhostNodePorts: false}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""


def corefile(state: Path) -> str:
    return f"""cluster.local:53 {{
  bind {DNS_ADDRESS}
  errors
  cache 5
  kubernetes cluster.local {{
    kubeconfig {state}/coredns.conf
  }}
}}
.:53 {{
  bind {DNS_ADDRESS}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def volumes(directory: Path, count: int) -> str:
    """A default storage class with volumes made beforehand, and a class whose one volume is 1 MiB small."""
    text = """apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: Immediate
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: tiny}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: Immediate
"""
    sizes = [(f"standard-{i}", "standard", "10Gi") for i in range(count)] + [("tiny-0", "tiny", "10Gi")]
    for name, class_name, size in sizes:
        text += f"""---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: {size}}}
  accessModes: [ReadWriteOnce, ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: {class_name}
  hostPath: {{path: {directory}/{name}, type: Directory}}
"""
    return text
