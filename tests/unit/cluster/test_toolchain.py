"""The build cache's key changes with every input of a build, and the pinned modules say what the settings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster import toolchain
from tests.cluster.commands import RequirementError, require_root
from tests.cluster.configuration import corefile
from tests.cluster.settings import KUBERNETES_VERSION, KUEUE_VERSION, VERSITYGW_VERSION, Paths
from tests.cluster.toolchain import CLUSTER, KUEUE, build_flags, cache_key, output_folder

SOURCES = {"go.mod": b"module x", "go.sum": b"a b"}


def key(**changes: object) -> str:
    inputs: dict[str, object] = {"sources": SOURCES, "go_version": "go1.26", "flags": ["-trimpath"], **changes}
    return cache_key(**inputs)  # pyright: ignore[reportArgumentType] - the changes of the tests below fit


@pytest.mark.parametrize(
    "changes",
    [
        {"go_version": "go1.27"},
        {"flags": ["-trimpath", "-race"]},
        {"sources": {**SOURCES, "go.sum": b"a c"}},
        {"sources": {**SOURCES, "main.go": b""}},
        {"sources": {"go.mod": b"module xa b", "go.sum": b""}},
    ],
)
def test_the_key_changes_with_each_input(changes: dict[str, object]) -> None:
    assert key(**changes) != key()


def test_the_key_does_not_depend_on_the_order_of_files() -> None:
    assert key(sources=dict(reversed(SOURCES.items()))) == key()
    assert re.fullmatch(r"[0-9a-f]{16}", key())


@pytest.mark.parametrize("module", [*CLUSTER, KUEUE], ids=lambda module: module.name)
def test_each_module_pins_what_it_builds(module: toolchain.GoModule) -> None:
    go_mod = (module.folder / "go.mod").read_text()
    own = re.search(r"^module (\S+)$", go_mod, flags=re.MULTILINE)
    assert own is not None
    for package in module.programs.values():
        if package.startswith(f"{own[1]}/"):
            assert (module.folder / package.removeprefix(f"{own[1]}/") / "main.go").exists()
        else:
            assert package in go_mod
    assert "-trimpath" in build_flags(module)


def test_versions_in_the_settings_are_those_of_the_modules() -> None:
    versions = {module.name: (module.folder / "go.mod").read_text() for module in (*CLUSTER, KUEUE)}
    assert f"k8s.io/kubernetes v{KUBERNETES_VERSION}" in versions["programs"]
    assert f"github.com/versity/versitygw v{VERSITYGW_VERSION}" in versions["programs"]
    assert f"sigs.k8s.io/kueue v{KUEUE_VERSION}" in versions["kueue"]


def test_coredns_has_the_plugins_that_the_corefile_names_and_no_others() -> None:
    text = corefile(paths=Paths.from_environment({}), nameservers=True)
    used = set(re.findall(r"^    ([a-z]+)", text, flags=re.MULTILINE))
    (programs,) = CLUSTER
    main = (programs.folder / "coredns/main.go").read_text()
    assert set(re.findall(r'_ "github.com/coredns/coredns/plugin/([a-z]+)"', main)) == used


def test_the_one_kubernetes_program_knows_every_name_that_it_is_called_by() -> None:
    (programs,) = CLUSTER
    main = (programs.folder / "kubernetes/main.go").read_text()
    names = {name for name, package in programs.programs.items() if package.endswith("/kubernetes")}
    assert len(names) == 5
    assert {name for name in names if f'"{name}"' in main} == names


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ("sigs.k8s.io/kustomize/kustomize/v5", "kustomize"),
        ("go.etcd.io/etcd/server/v3", "server"),
        ("example.com/v1", "v1"),
        ("lora-operator.io/tests/cluster/kstatus", "kstatus"),
        ("jobset", "jobset"),
    ],
)
def test_a_program_has_the_name_that_go_gives_it(package: str, name: str) -> None:
    assert toolchain.executable_name(package) == name


def test_the_output_folder_is_named_after_module_and_key(tmp_path: Path) -> None:
    folder = output_folder(module=CLUSTER[0], paths=Paths(cache=tmp_path, state=tmp_path / "state"), version="go1.26")
    assert folder.parent == tmp_path / "bin"
    assert re.fullmatch(r"programs-[0-9a-f]{16}", folder.name)


def test_a_missing_go_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RequirementError, match="`go` is not installed: install Go"):
        toolchain.go_version()


def test_root_is_asked_for_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RequirementError, match=r"^`up` needs root, .* run it with sudo\.$"):
        require_root(verb="up")
