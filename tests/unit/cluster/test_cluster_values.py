"""Command lines, configuration, certificates and clean-up decisions of the test cluster, without starting any of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.cluster import health, pki, processes
from tests.cluster.components import Component, components
from tests.cluster.configuration import configuration_files, corefile
from tests.cluster.footprint import mount_points
from tests.cluster.settings import CLUSTER_NAME, HERE, NODE_ADDRESS, Paths

PATHS = Paths(cache=Path("/cache"), state=Path("/state"))
PROGRAMS = {
    name: Path("/bin") / name
    for name in (
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "coredns",
    )
}


def parts() -> dict[str, Component]:
    return {part.name: part for part in components(paths=PATHS, programs=PROGRAMS)}


def test_the_api_server_is_as_strict_as_a_real_one() -> None:
    argv = parts()["kube-apiserver"].argv
    assert "--authorization-mode=Node,RBAC" in argv
    assert "--enable-admission-plugins=NodeRestriction" in argv
    assert not [word for word in argv if "disable-admission" in word or "anonymous" in word]


def test_kubelet_starts_before_kube_proxy_and_etcd_before_the_api_server() -> None:
    order = list(parts())
    assert order.index("etcd") < order.index("kube-apiserver") < order.index("kubelet") < order.index("kube-proxy")


def test_nothing_but_the_api_server_listens_beyond_this_machine() -> None:
    hosts = {name: {host for host, _ in part.ports} for name, part in parts().items()}
    assert hosts.pop("kube-apiserver") == {"0.0.0.0"}
    assert set().union(*hosts.values()) <= {"127.0.0.1", NODE_ADDRESS}


def test_every_configuration_that_a_component_reads_is_written() -> None:
    written = set(configuration_files(paths=PATHS, nameservers=True))
    assert {file for part in parts().values() for file in part.configuration} <= written


def test_configuration_files_parse() -> None:
    for file, content in configuration_files(paths=PATHS, nameservers=True).items():
        if file.suffix in {".yaml", ".kubeconfig"} or file.name == "kubeconfig":
            assert yaml.safe_load(content)["kind"]
        elif file.suffix == ".conflist":
            assert json.loads(content)["name"] == CLUSTER_NAME


def test_coredns_forwards_only_when_there_is_somewhere_to() -> None:
    assert "forward" in corefile(paths=PATHS, nameservers=True)
    assert "forward" not in corefile(paths=PATHS, nameservers=False)


def test_addresses_in_the_manifests_are_those_of_the_settings() -> None:
    text = (HERE / "manifests.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    (service,) = [document for document in documents if document["kind"] == "Service"]
    (endpoints,) = [document for document in documents if document["kind"] == "EndpointSlice"]
    assert service["spec"]["clusterIP"] == "10.222.0.10"
    assert endpoints["endpoints"][0]["addresses"] == [NODE_ADDRESS]


def test_paths_follow_the_environment() -> None:
    assert Paths.from_environment({"HOME": "/home/a"}).cache == Path("/home/a/.cache/lora-operator")
    assert Paths.from_environment({"XDG_CACHE_HOME": "/x", "HOME": "/h"}).cache == Path("/x/lora-operator")
    chosen = Paths.from_environment({"LORA_OPERATOR_CACHE": "/c", "LORA_OPERATOR_CLUSTER_DIR": "/s"})
    assert (chosen.cache, chosen.state) == (Path("/c"), Path("/s"))


def test_only_mounts_inside_our_folders_are_unmounted_innermost_first() -> None:
    mountinfo = "\n".join(
        f"{number} 1 0:1 / {point} rw - tmpfs tmpfs rw"
        for number, point in enumerate(["/", "/state/a", "/state-other/b", r"/state/a/with\040space"])
    )
    assert mount_points(mountinfo, below=[Path("/state")]) == [Path("/state/a/with space"), Path("/state/a")]


def test_certificates_carry_user_group_and_hosts(tmp_path: Path) -> None:
    certificate = pki.Certificate(name="node", common_name="system:node:n", organization="system:nodes")
    server = pki.Certificate(name="server", common_name="s", hosts=("127.0.0.1", "localhost"))
    pki.issue(tmp_path / "pki", [certificate, server])

    node = x509.load_pem_x509_certificate((tmp_path / "pki/node.crt").read_bytes())
    assert node.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:n"
    assert node.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
    names = x509.load_pem_x509_certificate((tmp_path / "pki/server.crt").read_bytes()).extensions
    assert names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [
        "localhost"
    ]
    assert (tmp_path / "pki/node.key").stat().st_mode & 0o077 == 0


def test_certificates_are_issued_once(tmp_path: Path) -> None:
    pki.issue(tmp_path / "pki", [])
    before = (tmp_path / "pki" / pki.CA_FILE).read_bytes()
    pki.issue(tmp_path / "pki", [])
    assert (tmp_path / "pki" / pki.CA_FILE).read_bytes() == before


def sleeper(tmp_path: Path) -> Component:
    argv = (sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path))
    return Component(name="sleeper", argv=argv, health="http://127.0.0.1:1/")


def test_a_process_is_started_found_and_stopped(tmp_path: Path) -> None:
    part, records = sleeper(tmp_path), tmp_path / "records"
    started = processes.start(part, records=records, logs=tmp_path / "logs")
    try:
        assert processes.running("sleeper", records=records) == started
        deadline = time.monotonic() + 10  # between fork and exec it still has our own command line
        while started.pid not in processes.find(programs=[Path(sys.executable).name], mention=str(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        assert processes.stop("sleeper", records=records)
    assert processes.running("sleeper", records=records) is None
    assert not processes.stop("sleeper", records=records)


def test_a_recycled_pid_is_not_taken_for_ours(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = {"pid": stranger.pid, "start_ticks": 1, "fingerprint": "x"}
        (tmp_path / "c.json").write_text(json.dumps(record))
        assert processes.running("c", records=tmp_path) is None
        processes.stop("c", records=tmp_path)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("changed", ["argv", "configuration"])
def test_a_changed_component_has_another_fingerprint(changed: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("a")
    part = Component(name="c", argv=("a",), health="", configuration=(file,))
    before = processes.fingerprint(part)
    if changed == "argv":
        part = Component(name="c", argv=("a", "b"), health="", configuration=(file,))
    else:
        file.write_text("b")
    assert processes.fingerprint(part) != before


def test_an_address_where_nobody_listens_is_not_healthy(tmp_path: Path) -> None:
    assert not health.healthy(f"unix:{tmp_path / 'none.sock'}", ca_file=tmp_path)
    assert not health.healthy("http://127.0.0.1:1/", ca_file=tmp_path)
    assert not health.healthy("tcp:127.0.0.1:1", ca_file=tmp_path)
