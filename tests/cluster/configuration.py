"""The text of every configuration file that the components read. Pure: a path in, file contents out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from .pki import CA_FILE
from .settings import (
    API_URL,
    CLUSTER_DOMAIN,
    CLUSTER_NAME,
    DNS_PORT,
    DNS_SERVICE_ADDRESS,
    NODE_ADDRESS,
    PAUSE_IMAGE,
    POD_CIDR,
    Paths,
)


def kubeconfig(*, paths: Paths, certificate: str) -> str:
    """A kubeconfig that points at the certificate's files, for the components."""
    return _kubeconfig(
        cluster={"server": API_URL, "certificate-authority": str(paths.pki / CA_FILE)},
        user={
            "client-certificate": str(paths.pki / f"{certificate}.crt"),
            "client-key": str(paths.pki / f"{certificate}.key"),
        },
        name=certificate,
    )


def _kubeconfig(*, cluster: Mapping[str, str], user: Mapping[str, str], name: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CLUSTER_NAME, "cluster": dict(cluster)}],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [{"name": CLUSTER_NAME, "context": {"cluster": CLUSTER_NAME, "user": name}}],
            "current-context": CLUSTER_NAME,
        },
        sort_keys=False,
    )


def containerd(*, paths: Paths) -> str:
    """containerd 1.6's config.toml: its own root, state and socket, so that another containerd is not touched."""
    q = json.dumps  # TOML's basic strings are JSON's, as far as paths go
    return f"""version = 2
root = {q(str(paths.containerd_root))}
state = {q(str(paths.containerd_state))}

[grpc]
address = {q(str(paths.containerd_socket))}

[plugins."io.containerd.internal.v1.opt"]
path = {q(str(paths.state / "containerd-opt"))}

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {q(PAUSE_IMAGE)}
# Where oom_score_adj may not be lowered, runc fails without this: "can't get final child's PID from pipe".
restrict_oom_score_adj = true
# Network namespaces are then below our state folder, where `down` finds them.
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = {q(str(paths.state / "cni/net.d"))}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
"""


def pod_network(*, paths: Paths) -> str:
    """CNI: one routed veth pair per pod, which needs neither a bridge nor iptables nor br_netfilter."""
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": CLUSTER_NAME,
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,  # our own nftables table does it, which `down` removes in one command
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(paths.state / "cni/addresses"),
                        "ranges": [[{"subnet": POD_CIDR}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        },
        indent=2,
    )


def kubelet(*, paths: Paths) -> str:
    """KubeletConfiguration. Images are never collected, since there is no registry to pull them from again."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(paths.pki / CA_FILE)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(paths.pki / "kubelet-server.crt"),
            "tlsPrivateKeyFile": str(paths.pki / "kubelet-server.key"),
            "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": False,
            "clusterDomain": CLUSTER_DOMAIN,
            "clusterDNS": [DNS_SERVICE_ADDRESS],
            "podLogsDir": str(paths.logs / "pods"),
            "volumePluginDir": str(paths.kubelet_root / "volume-plugins"),
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1Gi",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1Gi",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        },
        sort_keys=False,
    )


def corefile(*, paths: Paths, nameservers: bool) -> str:
    """CoreDNS for cluster names; everything else goes to the machine's own resolvers, when it has any."""
    forward = "    forward . /etc/resolv.conf\n" if nameservers else ""
    return f""".:{DNS_PORT} {{
    bind {NODE_ADDRESS}
    errors
    health 127.0.0.1:10054
    ready 127.0.0.1:10055
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {paths.state / "config/coredns.kubeconfig"}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
{forward}    cache 5
}}
"""


def audit_policy() -> str:
    """Metadata of what service accounts outside kube-system ask for: an operator's writes and the RBAC it needs."""
    return yaml.safe_dump(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
                {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
                {"level": "None"},
            ],
        },
        sort_keys=False,
    )


def configuration_files(*, paths: Paths, nameservers: bool) -> dict[Path, str]:
    """Every file to write before the components start."""
    config = paths.state / "config"
    files = {
        config / "containerd.toml": containerd(paths=paths),
        paths.state / "cni/net.d/10-pods.conflist": pod_network(paths=paths),
        config / "kubelet.yaml": kubelet(paths=paths),
        config / "Corefile": corefile(paths=paths, nameservers=nameservers),
        config / "audit-policy.yaml": audit_policy(),
        paths.kubeconfig: kubeconfig(paths=paths, certificate="admin"),
    }
    for name in ("controller-manager", "scheduler", "kubelet", "kube-proxy", "coredns"):
        files[config / f"{name}.kubeconfig"] = kubeconfig(paths=paths, certificate=name)
    return files
