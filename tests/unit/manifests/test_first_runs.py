"""A reader who follows README.md comes to a run that is accepted: samples, classes and pages name the same things."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator.naming import DEFAULT_CLASS_ANNOTATION

from tests.documents import Mention, commands, mentions

Body = dict[str, Any]

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests"
SAMPLES = sorted((MANIFESTS / "samples").rglob("*.yaml"))
IN_ARGO = sorted((MANIFESTS / "argocd/repository/teams").rglob("*.yaml"))
CLASSES = {
    body["metadata"]["name"]: body
    for body in (yaml.safe_load(file.read_text()) for file in sorted((MANIFESTS / "classes").glob("*.yaml")))
}
DEMO = MANIFESTS / "samples/text-to-sql-demo.yaml"
"""The run of `make demo`, which brings its own class and bucket."""
GATED = ("meta-llama/", "google/gemma")
"""Models whose licence is accepted on the hub, by an account that a token stands for."""


def read(path: Path) -> Body:
    return yaml.safe_load(path.read_text())


def is_default(body: Body) -> bool:
    return body["metadata"].get("annotations", {}).get(DEFAULT_CLASS_ANNOTATION) == "true"


def default(bodies: list[Body]) -> Body:
    """The one class that runs without a class get."""
    (body,) = filter(is_default, bodies)
    return body


def class_of(sample: Path) -> Body:
    """The class that a run of the sample gets, of those that ship with it."""
    if sample == DEMO:
        return default([read(MANIFESTS / "demo/class.yaml")])
    if sample in IN_ARGO:
        return default([read(MANIFESTS / "argocd/repository/lora-operator/class.yaml")])
    named = read(sample)["spec"].get("className")
    return default(list(CLASSES.values())) if named is None else CLASSES[named]


def values(node: object, key: str) -> Iterator[Any]:
    """All values of a key, at any depth."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == key)
        yield from (found for value in node.values() for found in values(value, key))
    elif isinstance(node, list):
        yield from (found for item in node for found in values(item, key))


def secrets_of(run: Body) -> set[str]:
    """The Secrets that the run itself names."""
    references = ("tokenSecretRef", "keySecretRef")
    return {found["name"] for reference in references for found in values(run["spec"], reference)}


def first_run() -> Path:
    """The sample that README.md has a team apply."""
    found = [re.fullmatch(r"kubectl apply -f (manifests/samples/\S+)", mention.command) for mention in readme()]
    (match,) = filter(None, found)
    return ROOT / match[1]


def readme() -> list[Mention]:
    return mentions((ROOT / "README.md").read_text())


@pytest.mark.parametrize("sample", [*SAMPLES, *IN_ARGO], ids=lambda path: path.stem)
def test_a_sample_gets_a_class(sample: Path) -> None:
    assert class_of(sample)["spec"]["image"]


@pytest.mark.parametrize("sample", sorted({*SAMPLES, *IN_ARGO} - {DEMO}), ids=lambda path: path.stem)
def test_one_bucket_is_all_that_a_sample_needs(sample: Path) -> None:
    """The keys that its class names open one team's bucket: what the run reads there, its work, and its adapter."""
    run = read(sample)
    work = class_of(sample)["spec"]["storage"]["workUri"].replace("{namespace}", run["metadata"]["namespace"])
    bucket = work.rpartition("/")[0] + "/"
    uris = [uri for uri in values(run["spec"], "uri") if not uri.startswith("hf://")]
    assert [uri for uri in uris if not uri.startswith(bucket)] == []


@pytest.mark.parametrize("sample", [*SAMPLES, *IN_ARGO], ids=lambda path: path.stem)
def test_a_gated_model_comes_with_a_token(sample: Path) -> None:
    run = read(sample)
    if run["spec"]["model"]["name"].startswith(GATED):
        assert "hugging-face" in secrets_of(run)


def test_every_class_takes_the_keys_from_the_same_place() -> None:
    """A Secret, or a ServiceAccount of the same name where pods have a workload identity."""
    credentials = [body["spec"]["storage"]["credentials"] for body in CLASSES.values()]
    assert {name for entry in credentials for name in entry.values()} == {"lora-storage"}


def test_one_class_is_the_default() -> None:
    assert [name for name, body in CLASSES.items() if is_default(body)] == ["gpu-24g"]


def test_the_class_in_git_is_the_sample() -> None:
    assert read(MANIFESTS / "argocd/repository/lora-operator/class.yaml") == CLASSES["gpu-24g"]


def test_the_first_run_needs_nothing_that_the_pages_have_not_made() -> None:
    page = "\n".join(commands((ROOT / "docs/tasks/onboard-a-team.md").read_text()).values())
    made = set(re.findall(r"create secret generic (\S+)", page))
    run, offered = read(first_run()), class_of(first_run())
    assert secrets_of(run) <= made
    assert offered["spec"]["storage"]["credentials"]["secretName"] in made
    assert not run["spec"]["model"]["name"].startswith(GATED)
    assert all(uri.startswith("hf://") for uri in values(run["spec"]["dataset"], "uri")), "rows that anybody may read"


def test_the_class_that_readme_offers_is_the_one_that_the_first_run_gets() -> None:
    offered = re.findall(r"`(manifests/classes/\S+\.yaml)`", (ROOT / "README.md").read_text())
    assert [read(ROOT / path) for path in offered] == [class_of(first_run())]
