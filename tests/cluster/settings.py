"""Where the test cluster keeps things, its addresses and versions. Values only: nothing here touches the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

KUBERNETES_VERSION = "1.34.4"
VERSITYGW_VERSION = "1.8.0"
KUEUE_VERSION = "0.15.0"

NODE_NAME = "node-1"
# Rarely used private ranges: no collision with Docker, kind, k3s or a cluster that this machine is part of.
NODE_ADDRESS = "10.223.0.1"
POD_CIDR = "10.221.0.0/16"
SERVICE_CIDR = "10.222.0.0/16"
API_SERVICE_ADDRESS = "10.222.0.1"
DNS_SERVICE_ADDRESS = "10.222.0.10"
DNS_PORT = 10053
API_PORT = 6443
API_URL = f"https://127.0.0.1:{API_PORT}"
CLUSTER_DOMAIN = "cluster.local"

CLUSTER_NAME = "lora-operator"
NODE_INTERFACE = "lora-node"
NFT_TABLE = "lora-operator"
CONTAINERD_NAMESPACE = "k8s.io"

PAUSE_IMAGE = "localhost/lora-operator/pause:1"
BASE_IMAGE = "localhost/lora-operator/base:bookworm"
KUEUE_IMAGE = f"localhost/lora-operator/kueue:v{KUEUE_VERSION}"
OBJECT_STORE_IMAGE = f"localhost/lora-operator/versitygw:v{VERSITYGW_VERSION}"

SYSTEM_PACKAGES = (
    "buildah",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "debootstrap",
    "git",
    "iproute2",
    "iptables",
    "mount",
    "nftables",
    "redis-server",
    "runc",
)


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Every folder of the cluster. `cache` survives `down`; `state` does not."""

    cache: Path
    state: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Paths:
        """LORA_OPERATOR_CACHE and LORA_OPERATOR_CLUSTER_DIR, or their defaults; always absolute."""
        user_cache = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/root")) / ".cache"
        cache = environment.get("LORA_OPERATOR_CACHE") or Path(user_cache) / "lora-operator"
        state = environment.get("LORA_OPERATOR_CLUSTER_DIR") or "/var/lib/lora-operator-cluster"
        return cls(cache=Path(cache).absolute(), state=Path(state).absolute())

    @property
    def binaries(self) -> Path:
        return self.cache / "bin"

    @property
    def images(self) -> Path:
        """All that holds image layers: buildah's store, containerd's root, the base archive."""
        return self.cache / "images"

    @property
    def containerd_root(self) -> Path:
        return self.images / "containerd"

    @property
    def containerd_state(self) -> Path:
        return self.state / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def kubelet_root(self) -> Path:
        return self.state / "kubelet"
