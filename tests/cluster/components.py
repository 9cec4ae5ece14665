"""The cluster's processes as a list of values: command line, health address, ports. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .pki import CA_FILE, FRONT_PROXY, SERVICE_ACCOUNT_KEY, SERVICE_ACCOUNT_PUBLIC
from .settings import API_PORT, DNS_PORT, NODE_ADDRESS, NODE_NAME, POD_CIDR, SERVICE_CIDR, Paths


@dataclass(frozen=True, kw_only=True)
class Component:
    """One process.

    `health` is an http(s) address that answers 200, or `unix:<path>` or `tcp:<host>:<port>` of a socket that accepts.
    `ports` must be free before it starts. `configuration` are the files whose change asks for a restart.
    """

    name: str
    argv: tuple[str, ...]
    health: str
    ports: tuple[tuple[str, int], ...] = ()
    configuration: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def components(*, paths: Paths, programs: Mapping[str, Path]) -> tuple[Component, ...]:
    """All components, in the order in which they start; they stop in the opposite order."""
    return (
        _containerd(paths),
        _etcd(paths, programs["etcd"]),
        _api_server(paths, programs["kube-apiserver"]),
        _controller_manager(paths, programs["kube-controller-manager"]),
        _scheduler(paths, programs["kube-scheduler"]),
        _coredns(paths, programs["coredns"]),
        _kubelet(paths, programs["kubelet"]),
        _proxy(paths, programs["kube-proxy"]),
    )


def _options(**options: object) -> tuple[str, ...]:
    """`a_b=1` as `--a-b=1`."""
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in options.items())


def _containerd(paths: Paths) -> Component:
    config = paths.state / "config/containerd.toml"
    return Component(
        name="containerd",
        argv=("containerd", *_options(config=config)),
        health=f"unix:{paths.containerd_socket}",
        configuration=(config,),
    )


def _etcd(paths: Paths, program: Path) -> Component:
    pki = paths.pki
    return Component(
        name="etcd",
        argv=(
            str(program),
            *_options(
                data_dir=paths.state / "etcd",
                unsafe_no_fsync="true",  # a test cluster's data need not outlive a power cut
                listen_client_urls="https://127.0.0.1:2379",
                advertise_client_urls="https://127.0.0.1:2379",
                listen_peer_urls="https://127.0.0.1:2380",
                listen_metrics_urls="http://127.0.0.1:2381",
                client_cert_auth="true",
                trusted_ca_file=pki / CA_FILE,
                cert_file=pki / "etcd.crt",
                key_file=pki / "etcd.key",
                peer_client_cert_auth="true",
                peer_trusted_ca_file=pki / CA_FILE,
                peer_cert_file=pki / "etcd.crt",
                peer_key_file=pki / "etcd.key",
                log_level="warn",
            ),
        ),
        health="http://127.0.0.1:2381/readyz",
        ports=(("127.0.0.1", 2379), ("127.0.0.1", 2380), ("127.0.0.1", 2381)),
    )


def _api_server(paths: Paths, program: Path) -> Component:
    pki, audit_policy = paths.pki, paths.state / "config/audit-policy.yaml"
    return Component(
        name="kube-apiserver",
        argv=(
            str(program),
            *_options(
                advertise_address=NODE_ADDRESS,
                secure_port=API_PORT,
                service_cluster_ip_range=SERVICE_CIDR,
                authorization_mode="Node,RBAC",
                enable_admission_plugins="NodeRestriction",
                allow_privileged="true",
                client_ca_file=pki / CA_FILE,
                tls_cert_file=pki / "apiserver.crt",
                tls_private_key_file=pki / "apiserver.key",
                etcd_servers="https://127.0.0.1:2379",
                etcd_cafile=pki / CA_FILE,
                etcd_certfile=pki / "apiserver-etcd.crt",
                etcd_keyfile=pki / "apiserver-etcd.key",
                # Aggregated APIs (Kueue's visibility) take the API server's word for who asks.
                requestheader_client_ca_file=pki / FRONT_PROXY / CA_FILE,
                requestheader_allowed_names="front-proxy",
                requestheader_username_headers="X-Remote-User",
                requestheader_group_headers="X-Remote-Group",
                requestheader_extra_headers_prefix="X-Remote-Extra-",
                proxy_client_cert_file=pki / FRONT_PROXY / "front-proxy.crt",
                proxy_client_key_file=pki / FRONT_PROXY / "front-proxy.key",
                kubelet_preferred_address_types="InternalIP",
                kubelet_certificate_authority=pki / CA_FILE,
                kubelet_client_certificate=pki / "apiserver-kubelet.crt",
                kubelet_client_key=pki / "apiserver-kubelet.key",
                service_account_issuer="https://kubernetes.default.svc.cluster.local",
                service_account_key_file=pki / SERVICE_ACCOUNT_PUBLIC,
                service_account_signing_key_file=pki / SERVICE_ACCOUNT_KEY,
                audit_policy_file=audit_policy,
                audit_log_path=paths.logs / "audit.log",
                audit_log_maxsize=100,
                audit_log_maxbackup=1,
                profiling="false",
            ),
        ),
        health=f"https://127.0.0.1:{API_PORT}/readyz",
        ports=(("0.0.0.0", API_PORT),),
        configuration=(audit_policy,),
    )


def _controller_manager(paths: Paths, program: Path) -> Component:
    kubeconfig = paths.state / "config/controller-manager.kubeconfig"
    return Component(
        name="kube-controller-manager",
        argv=(
            str(program),
            *_options(
                kubeconfig=kubeconfig,
                bind_address="127.0.0.1",
                tls_cert_file=paths.pki / "apiserver.crt",  # its names hold 127.0.0.1, which is all it serves on
                tls_private_key_file=paths.pki / "apiserver.key",
                use_service_account_credentials="true",
                service_account_private_key_file=paths.pki / SERVICE_ACCOUNT_KEY,
                root_ca_file=paths.pki / CA_FILE,
                leader_elect="false",
                profiling="false",
            ),
        ),
        health="https://127.0.0.1:10257/healthz",
        ports=(("127.0.0.1", 10257),),
        configuration=(kubeconfig,),
    )


def _scheduler(paths: Paths, program: Path) -> Component:
    kubeconfig = paths.state / "config/scheduler.kubeconfig"
    return Component(
        name="kube-scheduler",
        argv=(
            str(program),
            *_options(
                kubeconfig=kubeconfig,
                bind_address="127.0.0.1",
                tls_cert_file=paths.pki / "apiserver.crt",
                tls_private_key_file=paths.pki / "apiserver.key",
                leader_elect="false",
                profiling="false",
            ),
        ),
        health="https://127.0.0.1:10259/healthz",
        ports=(("127.0.0.1", 10259),),
        configuration=(kubeconfig,),
    )


def _proxy(paths: Paths, program: Path) -> Component:
    kubeconfig = paths.state / "config/kube-proxy.kubeconfig"
    return Component(
        name="kube-proxy",
        argv=(
            str(program),
            *_options(
                kubeconfig=kubeconfig,
                proxy_mode="nftables",
                hostname_override=NODE_NAME,
                cluster_cidr=POD_CIDR,
                healthz_bind_address="127.0.0.1:10256",
                metrics_bind_address="127.0.0.1:10249",
                # 0: leave the machine's connection-tracking settings as they are.
                conntrack_max_per_core=0,
                conntrack_min=0,
                conntrack_tcp_timeout_established="0s",
                conntrack_tcp_timeout_close_wait="0s",
            ),
        ),
        health="http://127.0.0.1:10249/healthz",
        ports=(("127.0.0.1", 10249), ("127.0.0.1", 10256)),
        configuration=(kubeconfig,),
    )


def _coredns(paths: Paths, program: Path) -> Component:
    corefile = paths.state / "config/Corefile"
    return Component(
        name="coredns",
        argv=(str(program), "-conf", str(corefile)),
        health="http://127.0.0.1:10055/ready",
        ports=((NODE_ADDRESS, DNS_PORT), ("127.0.0.1", 10054), ("127.0.0.1", 10055)),
        configuration=(corefile, paths.state / "config/coredns.kubeconfig"),
    )


def _kubelet(paths: Paths, program: Path) -> Component:
    config, kubeconfig = paths.state / "config/kubelet.yaml", paths.state / "config/kubelet.kubeconfig"
    return Component(
        name="kubelet",
        argv=(
            str(program),
            *_options(
                config=config,
                kubeconfig=kubeconfig,
                root_dir=paths.kubelet_root,
                hostname_override=NODE_NAME,
                node_ip=NODE_ADDRESS,
            ),
        ),
        health="http://127.0.0.1:10248/healthz",
        ports=((NODE_ADDRESS, 10250), ("127.0.0.1", 10248)),
        configuration=(config, kubeconfig),
    )
