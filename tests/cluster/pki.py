"""The cluster's certificates: one authority of our own that lives and dies with the cluster's state folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .settings import API_SERVICE_ADDRESS, CLUSTER_DOMAIN, NODE_ADDRESS, NODE_NAME

CA_FILE = "ca.crt"
FRONT_PROXY = "front-proxy"
"""Folder of the authority for the API server's own requests to aggregated APIs. Whoever it certifies speaks for any
user there, so it certifies nobody else."""
SERVICE_ACCOUNT_KEY = "service-account.key"
SERVICE_ACCOUNT_PUBLIC = "service-account.pub"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate to issue: `common_name` is the user and `organization` the group that Kubernetes sees."""

    name: str
    common_name: str
    organization: str | None = None
    hosts: tuple[str, ...] = ()


_API_HOSTS = (
    "localhost",
    "127.0.0.1",
    API_SERVICE_ADDRESS,
    NODE_ADDRESS,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
)

CERTIFICATES = (
    Certificate(name="etcd", common_name="etcd", hosts=("localhost", "127.0.0.1")),
    Certificate(name="apiserver", common_name="kube-apiserver", hosts=_API_HOSTS),
    Certificate(name="apiserver-etcd", common_name="kube-apiserver-etcd-client"),
    Certificate(name="apiserver-kubelet", common_name="kube-apiserver-kubelet-client", organization="system:masters"),
    Certificate(name="kubelet-server", common_name=f"system:node:{NODE_NAME}", hosts=(NODE_ADDRESS, NODE_NAME)),
    Certificate(name="admin", common_name="kubernetes-admin", organization="system:masters"),
    Certificate(name="controller-manager", common_name="system:kube-controller-manager"),
    Certificate(name="scheduler", common_name="system:kube-scheduler"),
    Certificate(name="kubelet", common_name=f"system:node:{NODE_NAME}", organization="system:nodes"),
    Certificate(name="kube-proxy", common_name="system:kube-proxy"),
    Certificate(name="coredns", common_name="system:coredns"),
)


def issue(folder: Path, certificates: Sequence[Certificate] = CERTIFICATES) -> None:
    """Write the authority, `<name>.crt` and `<name>.key` for each certificate, the service-account key pair, and the
    front proxy's authority and certificate.

    Does nothing where a complete set is there; keys are readable by their owner only.
    """
    _issue_set(folder, certificates)
    _issue_set(folder / FRONT_PROXY, [Certificate(name=FRONT_PROXY, common_name=FRONT_PROXY)])
    if not (folder / SERVICE_ACCOUNT_PUBLIC).exists():
        _issue_service_account_keys(folder)


def _issue_set(folder: Path, certificates: Sequence[Certificate]) -> None:
    complete = folder / "complete"
    if complete.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = trustme.CA(organization_name="lora-operator test cluster")
    authority.cert_pem.write_to_path(str(folder / CA_FILE))
    for certificate in certificates:
        # Go refuses a certificate whose list of names is there but empty, so a client's gets a name nobody can have.
        hosts = certificate.hosts or (f"{certificate.name}.invalid",)
        leaf = authority.issue_cert(
            *hosts, common_name=certificate.common_name, organization_name=certificate.organization
        )
        (folder / f"{certificate.name}.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        _write_private(folder / f"{certificate.name}.key", leaf.private_key_pem.bytes())
    complete.touch()


def _issue_service_account_keys(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_private(
        folder / SERVICE_ACCOUNT_KEY,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
    )
    (folder / SERVICE_ACCOUNT_PUBLIC).write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
