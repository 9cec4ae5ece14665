"""The CRDs: structural, described, bounded, in step with the models, and with rules that say what they should."""

from __future__ import annotations

import copy
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity
from lora_operator import naming
from lora_operator.api.lorafinetune import LoraFineTuneSpec
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.quantity import PATTERN, in_gib
from lora_operator.generate.crds import class_crd, render, run_crd
from lora_operator.generate.schema import structural_schema
from lora_trainer.contract.spec.cel import STORED
from pydantic import BaseModel, Field, ValidationError

from tests.crd_case import CrdCase
from tests.crd_cases import CASES
from tests.fakes.schema import violations

Schema = dict[str, Any]
FOLDER = Path(__file__).parents[3] / "manifests" / "crd"
CRDS = {naming.RUN_KIND: run_crd(), naming.CLASS_KIND: class_crd()}
KNOWN = {
    "type",
    "format",
    "description",
    "default",
    "enum",
    "anyOf",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
}


def schema_of(kind: str) -> Schema:
    return CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node of a schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}".lstrip("."))
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], path + suffix)


NODES = [(f"{kind} {path}", node) for kind in CRDS for path, node in walk(schema_of(kind)) if path]
SPEC_NODES = [(path, node) for path, node in NODES if path.split()[1].startswith("spec")]


@pytest.mark.parametrize("crd", CRDS.values(), ids=CRDS.keys())
def test_the_manifests_are_what_the_models_say(crd: Schema) -> None:
    path = FOLDER / f"{crd['spec']['names']['plural']}.yaml"
    assert path.read_text() == render(crd), "run `make generate`"


def test_patterns_mean_the_same_to_the_api_server_and_to_the_operator() -> None:
    """To Go blanks, letters and digits are those of ASCII; to pydantic, those of Unicode."""
    patterns = [(path, node["pattern"]) for path, node in NODES if "pattern" in node]
    assert [path for path, pattern in patterns if re.search(r"\\[swdbSWDB]", pattern)] == []


def test_every_node_is_structural() -> None:
    for path, node in NODES:
        assert set(node) <= KNOWN, path
        if "x-kubernetes-int-or-string" in node:
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            assert "type" not in node, path
            assert "pattern" in node, path
        elif node.get("x-kubernetes-preserve-unknown-fields"):
            assert node == {"x-kubernetes-preserve-unknown-fields": True}, path
            assert path.endswith("{}"), path
        else:
            assert node.get("type") in ("object", "array", "string", "integer", "number", "boolean"), path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_every_field_has_a_description() -> None:
    bare = [path for path, node in NODES if not node.get("description") and not path.endswith(("[]", "{}", "metadata"))]
    assert bare == []


def test_descriptions_read_as_sentences() -> None:
    odd = [
        path for path, node in SPEC_NODES if (text := node.get("description")) and not text.endswith((".", "'", ")"))
    ]
    assert odd == []


def test_everything_that_users_type_is_bounded() -> None:
    unbounded = []
    for path, node in SPEC_NODES:
        bounds = {"string": "maxLength", "array": "maxItems"}
        bound = "maxProperties" if "additionalProperties" in node else bounds.get(node.get("type", ""))
        if bound and bound not in node and "enum" not in node:
            unbounded.append(path)
        if node.get("type") in ("integer", "number") and not {"minimum", "maximum"} <= set(node) and "enum" not in node:
            unbounded.append(path)
    assert unbounded == []


def test_whole_numbers_are_judged_by_the_bounds_as_written() -> None:
    """The API server compares a whole number, 0 say, with a bound cut to a whole number: 0 is not below 0.5 to it."""
    for name, node in NODES:
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            assert not node.get(exclusive) or node[bound] == int(node[bound]), name


def test_lists_say_how_they_merge() -> None:
    for path, node in NODES:
        if node.get("type") == "array":
            assert node.get("x-kubernetes-list-type") in ("atomic", "set", "map"), path


def test_the_api_server_stores_no_defaults() -> None:
    """A stored default looks like a choice: no class could set another, and no release could change it."""
    assert [path for path, node in SPEC_NODES if "default" in node] == []


@pytest.mark.parametrize("model", [LoraFineTuneSpec, LoraFineTuneClassSpec])
def test_descriptions_name_the_defaults_of_the_models(model: type[BaseModel]) -> None:
    told = dict(walk(structural_schema(model)))
    for path, default in _defaults(model.model_json_schema(by_alias=True)):
        assert f"(default {default})" in told[path]["description"], path


def _defaults(document: Schema) -> Iterator[tuple[str, str]]:
    """Path and default of every field of a JSON schema that has one."""

    def below(node: Schema, path: str) -> Iterator[tuple[str, str]]:
        for name, field in node.get("properties", {}).items():
            here = f"{path}.{name}".lstrip(".")
            choices = [field, *field.get("anyOf", ())]
            references = [choice["$ref"].rsplit("/", 1)[-1] for choice in choices if "$ref" in choice]
            target = document["$defs"][references[0]] if references else {}
            if isinstance(default := field.get("default"), str | int | float):
                yield here, default if isinstance(default, str) else json.dumps(default)
            yield from below(target, here)

    return below(document, "")


def test_status_is_a_subresource_of_runs() -> None:
    assert CRDS[naming.RUN_KIND]["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_printer_columns_point_at_fields_that_exist() -> None:
    for kind, crd in CRDS.items():
        paths = {path for path, _ in walk(schema_of(kind))}
        for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]:
            path = column["jsonPath"].removeprefix(".").replace('[?(@.type=="Ready")]', "[]")
            assert path in paths or path == "metadata.creationTimestamp", column


class Sample(BaseModel):
    """A sample."""

    model_config = {"use_attribute_docstrings": True}

    share: float = Field(default=0.5, gt=0, lt=1)
    """A share."""
    note: str | None = Field(default=None, max_length=5)
    """A
    note."""


def test_the_dialect_of_kubernetes() -> None:
    schema = structural_schema(Sample)
    share, note = schema["properties"]["share"], schema["properties"]["note"]
    assert (share["description"], "default" in share) == ("A share. (default 0.5)", False)
    assert (share["minimum"], share["exclusiveMinimum"]) == (0, True)
    assert (share["maximum"], share["exclusiveMaximum"]) == (1, True)
    assert note == {"type": "string", "maxLength": 5, "description": "A note."}
    assert "title" not in schema


def test_a_union_of_types_is_refused() -> None:
    class Union(BaseModel):
        either: int | str

    with pytest.raises(ValueError, match="no unions of types"):
        structural_schema(Union)


# --- the cases that the real API server judges too ----------------------------------------------------------------


def refusals(case: CrdCase) -> list[str]:
    """What schema and rules say to a case."""
    schema = schema_of(case.kind)
    before, after = case.before(), case.after()
    found = [f"{path}: {message}" for path, message in violations(after, schema)]
    # The API server asks no rule of an object whose shape is wrong.
    return found or list(broken_rules(after, before if case.change is not None else None, schema))


def broken_rules(node: Any, old: Any, schema: Schema) -> Iterator[str]:
    """Messages of the CEL rules that do not hold. Transition rules count on update only, those with optionalOldSelf on
    creation only."""
    for entry in schema.get("x-kubernetes-validations", ()):
        if entry.get("optionalOldSelf"):
            on_creation = entry["rule"].removeprefix(f"{STORED} || ")
            assert "oldSelf" not in on_creation
            if old is None and not cel.evaluate(on_creation, {"self": copy.deepcopy(node)}):
                yield entry["message"]
            continue
        transition = "oldSelf" in entry["rule"]
        if transition and old is None:
            continue
        scope = {"self": copy.deepcopy(node)} | ({"oldSelf": copy.deepcopy(old)} if transition else {})
        if not cel.evaluate(entry["rule"], scope):
            yield entry["message"]
    for name, child in schema.get("properties", {}).items():
        if isinstance(node, dict) and name in node:
            yield from broken_rules(node[name], (old or {}).get(name), child)
    if isinstance(node, list):
        # The items of an atomic list have no old selves.
        for item in node:
            yield from broken_rules(item, None, schema["items"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_judged_as_it_should_be(case: CrdCase) -> None:
    found = refusals(case)
    if case.accepted:
        assert found == []
    else:
        assert any(case.words in message for message in found), found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_models_agree_with_the_schema(case: CrdCase) -> None:
    """What the schema accepts the operator can read, and what it refuses without CEL the models refuse too."""
    model = LoraFineTuneSpec if case.kind == naming.RUN_KIND else LoraFineTuneClassSpec
    if case.accepted:
        model.model_validate(case.after()["spec"])
    elif violations(case.after(), schema_of(case.kind)):
        with pytest.raises(ValidationError):
            model.model_validate(case.after()["spec"])


def test_every_rule_is_broken_by_some_case() -> None:
    rules = {
        entry["message"]
        for kind in CRDS
        for _, node in walk(schema_of(kind))
        for entry in node.get("x-kubernetes-validations", ())
    }
    broken = {message for case in CASES for message in refusals(case)}
    assert rules <= broken


SHIPPED = [
    (path.relative_to(FOLDER.parent), body)
    for path in sorted(FOLDER.parent.rglob("*.yaml"))
    if path.name != "of_another_version.yaml"  # what no API server of this version would store
    for body in yaml.safe_load_all(path.read_text())
    if isinstance(body, dict) and body.get("apiVersion") == naming.API_VERSION
]


def shown(path: Path) -> Iterator[Schema]:
    """The objects that a page shows, digests written out."""
    for block in re.finditer(
        rf"(?m)^( *)apiVersion: {naming.API_VERSION}\n(?:\1[^`\n].*\n|\n(?=\1 ))+", path.read_text()
    ):
        yield yaml.safe_load(textwrap.dedent(block.group()).replace("@sha256:...", f"@sha256:{'0' * 64}"))


PAGES = [FOLDER.parents[1] / "README.md", *sorted((FOLDER.parents[1] / "docs").rglob("*.md"))]
SHIPPED += [(path.relative_to(FOLDER.parents[1]), body) for path in PAGES for body in shown(path)]


def test_manifests_and_pages_hold_runs_and_classes() -> None:
    kinds = [body["kind"] for _, body in SHIPPED]
    assert kinds.count(naming.RUN_KIND) > 10
    assert kinds.count(naming.CLASS_KIND) > 5
    assert {str(path) for path, _ in SHIPPED} >= {"README.md", "docs/tasks/offer-a-class.md"}


@pytest.mark.parametrize("body", [body for _, body in SHIPPED], ids=[str(path) for path, _ in SHIPPED])
def test_what_manifests_and_pages_hold_is_accepted(body: Schema) -> None:
    schema = schema_of(body["kind"])
    assert unknown_fields(body, schema) == []
    assert violations(body, schema) == []
    assert list(broken_rules(body, None, schema)) == []


def unknown_fields(node: Any, schema: Schema, path: str = "") -> list[str]:
    """Fields that the API server would prune or refuse."""
    if path == "metadata" or "additionalProperties" in schema:
        return []
    if isinstance(node, list):
        return [name for item in node for name in unknown_fields(item, schema["items"], f"{path}[]")]
    if not isinstance(node, dict):
        return []
    known = schema.get("properties", {})
    found = [f"{path}.{name}".lstrip(".") for name in node if name not in known]
    for name in set(node) & set(known):
        found += unknown_fields(node[name], known[name], f"{path}.{name}".lstrip("."))
    return found


@pytest.mark.parametrize("unit", ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"])
@pytest.mark.parametrize("number", ["1", "0", "1.5", "80"])
def test_amounts_mean_what_kubernetes_means(number: str, unit: str) -> None:
    quantity = f"{number}{unit}"
    assert re.fullmatch(PATTERN, quantity)
    assert in_gib(quantity) == pytest.approx(float(parse_quantity(quantity)) / 2**30)
