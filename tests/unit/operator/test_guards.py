"""What a class allows: the operator's check and the admission policy say the same of every case, in the same words.

A real API server judges the cases too (tests/cluster/test_policy.py); here its CEL runs with the three string functions
that Kubernetes adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_operator.api.guards import GUARDS, breaches
from lora_operator.api.lorafinetune import LoraFineTuneSpec
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.namespace_selector import LabelExpression, NamespaceSelector, Operator
from lora_operator.api.placement import Placement
from lora_operator.generate.admission import policy, render
from lora_operator.naming import DEFAULT_CLASS_ANNOTATION
from lora_operator.planning.gates import Block, accept

from tests.builders import a_class, a_run, an_observation, class_body, run_body
from tests.policy_cases import CASES, GUARDED, LIMITS, NAMESPACE, PolicyCase

Body = dict[str, Any]

MANIFEST = Path(__file__).parents[3] / "manifests/policy/classes.yaml"
GUARDED_CLASS = class_body(GUARDED, default=False, **LIMITS)
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def stored(body: Body, *, model: type[LoraFineTuneSpec] | type[LoraFineTuneClassSpec]) -> Body:
    """The object with its defaults, as the API server has it."""
    return body | {"spec": model.model_validate(body["spec"]).wire()}


def operator_says(body: Body, limits: Body = GUARDED_CLASS) -> tuple[str, ...]:
    run, of_class = stored(body, model=LoraFineTuneSpec), stored(limits, model=LoraFineTuneClassSpec)
    name = limits["metadata"]["name"]
    return breaches(run["spec"], of_class["spec"], class_name=name, namespace=body["metadata"]["namespace"])


def policy_says(
    body: Body, limits: Body = GUARDED_CLASS, *, old: Body | None = None, labels: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Messages of the validations that fail."""
    context = cel.Context()
    context.add_function("replace", lambda text, old, new: text.replace(old, new))
    context.add_function("substring", lambda text, start, end: text[start:end])
    context.add_function("join", lambda texts, separator: separator.join(texts))
    context.add_variable("object", stored(body, model=LoraFineTuneSpec))
    context.add_variable("oldObject", old and stored(old, model=LoraFineTuneSpec))
    context.add_variable("params", stored(limits, model=LoraFineTuneClassSpec))
    namespace = {"name": body["metadata"]["namespace"]} | ({"labels": dict(labels)} if labels is not None else {})
    context.add_variable("namespaceObject", {"metadata": namespace})
    spec = policy()["spec"]
    if not all(cel.evaluate(condition["expression"], context) for condition in spec["matchConditions"]):
        return ()
    found: Body = {}
    for variable in spec["variables"]:
        found[variable["name"]] = cel.evaluate(variable["expression"], context)
    context.add_variable("variables", found)
    failing = (rule for rule in spec["validations"] if not cel.evaluate(rule["expression"], context))
    return tuple(cel.evaluate(rule["messageExpression"], context) for rule in failing)


def test_the_manifest_is_what_the_table_says() -> None:
    assert MANIFEST.read_text() == render(), "run `make generate`"


def test_every_guard_has_a_case_beyond_and_one_on_the_edge() -> None:
    tried = {(case.field, bool(case.refused)) for case in CASES}
    assert tried == {(guard.field, refused) for guard in GUARDS for refused in (True, False)}


@cases
def test_the_operator_allows_the_edge_and_no_more(case: PolicyCase) -> None:
    said = operator_says(case.body())
    assert len(said) == bool(case.refused), said
    assert case.refused in "".join(said)


@cases
def test_the_policy_says_what_the_operator_says(case: PolicyCase) -> None:
    assert policy_says(case.body()) == operator_says(case.body())


def test_every_breach_is_told() -> None:
    run = run_body(className=GUARDED, lora={"r": 128}, training={"maxSteps": 9999})
    said = operator_says(run)
    assert [sentence.split()[0] for sentence in said] == ["spec.lora.r", "spec.training.maxSteps"]
    assert policy_says(run) == said


def test_the_namespace_is_filled_in() -> None:
    run = run_body(className=GUARDED, output={"uri": "s3://other/x"})
    (said,) = operator_says(run)
    assert f"Its spec.allowed.outputs allows: s3://{NAMESPACE}/*. Use one of these" in said


def test_a_class_without_limits_allows_everything() -> None:
    free = class_body("free", default=False)
    run = run_body(className="free", lora={"r": 512}, training={"maxSteps": 10_000_000})
    assert operator_says(run, free) == policy_says(run, free) == ()


@pytest.mark.parametrize(
    ("class_name", "default", "judged"),
    [(GUARDED, False, True), ("other", True, False), (None, True, True), (None, False, False)],
)
def test_a_run_is_judged_by_its_own_class(class_name: str | None, default: bool, judged: bool) -> None:
    run = run_body(lora={"r": 65}, **({"className": class_name} if class_name else {}))
    limits = class_body(GUARDED, default=default, **LIMITS)
    assert bool(policy_says(run, limits)) == judged


KEYS, VALUES = st.sampled_from(["team", "example.com/gpu"]), st.sampled_from(["a", "b", ""])
EXPRESSIONS = st.one_of(
    st.builds(
        LabelExpression,
        key=KEYS,
        operator=st.sampled_from([Operator.IN, Operator.NOT_IN]),
        values=st.lists(VALUES, min_size=1, max_size=2),
    ),
    st.builds(LabelExpression, key=KEYS, operator=st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
)
SELECTORS = st.builds(
    NamespaceSelector,
    match_labels=st.none() | st.dictionaries(KEYS, VALUES),
    match_expressions=st.none() | st.lists(EXPRESSIONS, max_size=2).map(tuple),
)


@given(selector=SELECTORS, labels=st.none() | st.dictionaries(KEYS, VALUES))
def test_the_policy_offers_a_class_to_the_namespaces_that_the_operator_offers_it_to(
    selector: NamespaceSelector, labels: Mapping[str, str] | None
) -> None:
    offered = class_body("offered", default=False, namespaceSelector=selector.wire())
    run = run_body(className="offered")
    said = policy_says(run, offered, labels=labels)
    assert (said == ()) == selector.matches(labels or {})
    assert policy_says(run, offered, old=run, labels=labels) == (), "a stored run may be suspended"
    assert all(f"class offered is not offered to namespace {NAMESPACE}" in s.replace("Class", "class") for s in said)


NAMES = st.sampled_from(["gpus", "gpus-2", "team-a", "team-a-gpus", "team-b"])
ENTRIES = st.none() | st.lists(
    st.sampled_from(["gpus", "gpus*", "*", "{namespace}", "{namespace}-*"]), min_size=1, max_size=3, unique=True
)
QUEUES = st.fixed_dictionaries({}, optional={"queueName": NAMES, "workloadPriorityClassName": NAMES})


@given(queues=ENTRIES, priorities=ENTRIES, before=st.none() | QUEUES, after=QUEUES)
def test_policy_and_operator_agree_on_queues_and_priorities_at_creation_and_afterwards(
    queues: list[str] | None, priorities: list[str] | None, before: Body | None, after: Body
) -> None:
    allowed = {name: entries for name, entries in (("queues", queues), ("priorityClasses", priorities)) if entries}
    of_class = class_body(GUARDED, default=False, allowed=allowed)
    old = run_body(className=GUARDED, suspend=True, **before) if before is not None else None
    new = run_body(className=GUARDED, suspend=True, **after)
    changed = {name: value for name, value in after.items() if before is None or before.get(name) != value}
    assert policy_says(new, of_class, old=old) == operator_says(run_body(**changed), of_class)


QUEUE = st.sampled_from([None, "gpus"])


@given(
    nodes=st.none() | st.integers(1, 3),
    queue=QUEUE,
    default_queue=QUEUE,
    placement=st.none() | st.sampled_from(Placement),
)
def test_policy_and_operator_agree_on_what_starts_all_pods_or_none(
    nodes: int | None, queue: str | None, default_queue: str | None, placement: Placement | None
) -> None:
    train = {"placement": placement, "schedulerName": "volcano"} if placement else {}
    defaults = {"queueName": default_queue} if default_queue else {}
    spec: Body = {"limits": {"nodes": 3}, "train": train, "defaults": defaults}
    asked: Body = {"queueName": queue} if queue else {}
    run = a_run(className=GUARDED, parallelism={"nodes": nodes} if nodes else {}, **asked)
    of_class = a_class(GUARDED, **spec)
    said = accept(an_observation(run, classes=(of_class,)))
    refused = said.message if isinstance(said, Block) else ""
    body = run_body(className=GUARDED) | {"spec": run.spec.wire()}
    assert "".join(policy_says(body, class_body(GUARDED, **spec))) == refused
    assert bool(refused) == ((nodes or 1) > 1 and not queue and not default_queue and placement in (None, "Queue"))
    assert policy_says(body, class_body(GUARDED, **spec), old=body) == (), "a stored run may be suspended"


def test_no_class_is_the_default_by_another_word() -> None:
    limits = class_body(GUARDED, **LIMITS)
    limits["metadata"]["annotations"][DEFAULT_CLASS_ANNOTATION] = "no"
    assert policy_says(run_body(lora={"r": 65}), limits) == ()


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ({"suspend": False}, {"suspend": True}, False),
        ({"maxRuntimeSeconds": 7200}, {"maxRuntimeSeconds": 7200, "suspend": True}, False),
        ({"maxRuntimeSeconds": 7200}, {}, False),
        ({"maxRuntimeSeconds": 7200}, {"maxRuntimeSeconds": 600}, False),
        ({"maxRuntimeSeconds": 600}, {"maxRuntimeSeconds": 7200}, True),
        ({}, {"maxRuntimeSeconds": 7200}, True),
    ],
)
def test_a_class_that_became_stricter_keeps_nobody_from_editing_a_run(before: Body, after: Body, refused: bool) -> None:
    old = run_body(className=GUARDED, lora={"r": 512}, **before)
    new = run_body(className=GUARDED, lora={"r": 512}, **after)
    assert bool(policy_says(new, old=old)) == refused
