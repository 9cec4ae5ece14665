"""The metrics, and all that must not drift from them: the documentation, the alerts, the dashboard, the monitors."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator import naming
from lora_operator.api.reasons import Reason
from lora_operator.engine.loops import Loop
from lora_operator.metrics import KNOWN_REASONS, NOT_SEEN, OTHER, POLL_RESULTS, RESULTS, Metrics, bounded
from lora_operator.naming import Stage
from lora_operator.workloads.metadata import child_labels
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.parallelism import ParallelismSpec
from lora_trainer.telemetry import GAUGES
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from tests.builders import a_run, after
from tests.promql import Selector, groupings, selectors
from tests.unit.operator.simulation import TRAIN, Simulation, complete, training
from tests.unit.operator.test_plan_attempts import silent_for

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "manifests" / "monitoring"
DOCUMENT = ROOT / "docs" / "reference" / "metrics.md"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
OF_TARGETS = frozenset({"namespace", "pod", "container", "job", "instance", "endpoint"})
"""Labels that Prometheus itself gives to every series of a pod."""
MARKED = re.compile(r"(<!-- (operator|trainer) -->\n).*?(<!-- end -->)", re.DOTALL)


def the_metrics() -> Metrics:
    """The metrics of an operator that knows one run."""
    metrics = Metrics()
    metrics.count_runs(lambda: {("team-a", "Training"): 1})
    return metrics


def labels_of(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """The labels of each metric family."""
    own = (metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase))
    labels = {metric._name: tuple(metric._labelnames) for metric in own}
    return labels | {"lora_operator_runs": ("namespace", "reason")}


def series() -> dict[str, frozenset[str]]:
    """Every series that operator and trainer expose, with its labels."""
    metrics = the_metrics()
    labels, known = labels_of(metrics), {}
    for family in metrics.registry.collect():
        for suffix in SUFFIXES[family.type]:
            more = {"le"} if suffix == "_bucket" else set()
            known[family.name + suffix] = frozenset({*labels.get(family.name, ()), *more, *OF_TARGETS})
    return known | {f"lora_trainer_{name}": OF_TARGETS for name in GAUGES}


SERIES = series()

# --- the figures --------------------------------------------------------------------------------------------------


def figures(metrics: Metrics) -> dict[str, float]:
    """Every sample of the operator's own."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("lora_operator_"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def written(world: Simulation, metrics: Metrics, **observed: Any) -> None:
    """One reconcile whose status was written."""
    before = world.run
    world.reconcile(**observed)
    metrics.status_written(before, world.run.status, now=world.now)


def test_each_end_of_an_attempt_counts_once() -> None:
    metrics = the_metrics()
    world = training()
    world.pass_time(90)
    world.end(TRAIN, 137)
    for _ in range(3):
        written(world, metrics)
    told = figures(metrics)
    labels = 'namespace="team-a",reason="Killed",stage="train"'
    assert told[f"lora_operator_attempts_ended_total{{{labels}}}"] == 1
    assert told['lora_operator_accelerator_seconds_total{class="h100",namespace="team-a"}'] == 90


def test_accelerators_count_each_for_itself() -> None:
    metrics = the_metrics()
    world = training()
    world.run = replace(
        world.run, spec=world.run.spec.model_copy(update={"parallelism": ParallelismSpec(gpus=2, nodes=2)})
    )
    world.pass_time(40)
    world.delete_job(TRAIN)
    written(world, metrics)
    assert figures(metrics)['lora_operator_accelerator_seconds_total{class="h100",namespace="team-a"}'] == 160


def test_the_first_step_counts_once_per_run() -> None:
    metrics = the_metrics()
    world = training()
    for step in (0, 1, 20):
        world.pass_time(100)
        polled = replace(silent_for(0, pod=f"{TRAIN}-2", step=step), time=world.now)
        written(world, metrics, polled=polled)
    told = figures(metrics)
    assert told['lora_operator_first_step_seconds_count{class="h100"}'] == 1
    assert told['lora_operator_first_step_seconds_sum{class="h100"}'] == (after(235) - after(0)).total_seconds()
    assert told["lora_operator_progress_writes_total"] == 3


@pytest.mark.parametrize("code", [code.value for code in ExitCode if code])
def test_no_counter_starts_with_its_first_event(code: int) -> None:
    """Prometheus sees an increase between two scrapes of a series, and none in a series that is new."""
    metrics = the_metrics()
    world = training()
    metrics.namespace_seen("team-a")
    metrics.request_ended("get", "jobs", 200)
    written(world, metrics)
    scraped = figures(metrics)
    world.end(TRAIN, code)
    written(world, metrics)
    for result in RESULTS:
        metrics.reconcile_seconds.labels(result).observe(1)
    metrics.polls.labels("failed").inc()
    metrics.request_ended("get", "jobs", 503)
    after_the_event = figures(metrics)
    assert sum(after_the_event.values()) > sum(scraped.values())
    assert {name for name in after_the_event if name not in scraped} == set()


def test_a_published_adapter_counts() -> None:
    metrics = the_metrics()
    before, world = training(), complete()
    metrics.status_written(before.run, world.run.status, now=world.now)
    told = figures(metrics)
    assert told['lora_operator_adapters_published_total{namespace="team-a"}'] == 1
    assert told['lora_operator_transitions_total{namespace="team-a",reason="AdapterPublished"}'] == 1


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("Training", "Training"),
        ("OutOfMemory", "OutOfMemory"),
        ("Killed", "Killed"),
        ("x" * 90, OTHER),
        (None, NOT_SEEN),
    ],
)
def test_reasons_that_a_pod_invents_are_no_labels(reason: str | None, label: str) -> None:
    assert bounded(reason) == label
    metrics = Metrics()
    metrics.count_runs(lambda: {("team-a", reason): 2, ("team-a", "another-invention"): 1})
    expected = 3 if label == OTHER else 2
    assert figures(metrics)[f'lora_operator_runs{{namespace="team-a",reason="{label}"}}'] == expected


def test_no_metric_is_labelled_with_what_grows_with_the_runs() -> None:
    allowed = {"namespace", "class", "reason", "stage", "result", "loop", "verb", "resource", "code"}
    assert {label for labels in labels_of(the_metrics()).values() for label in labels} == allowed


# --- the documentation --------------------------------------------------------------------------------------------


def operator_table() -> str:
    """One row per metric of the operator."""
    metrics = the_metrics()
    labels = labels_of(metrics)
    rows = [
        (family.name + ("_total" if family.type == "counter" else ""), family.type, labels[family.name], family)
        for family in metrics.registry.collect()
        if family.name in labels
    ]
    lines = [f"| `{name}` | {kind} | {', '.join(of)} | {family.documentation} |" for name, kind, of, family in rows]
    return "\n".join(["| metric | type | labels | what it tells |", "|---|---|---|---|", *sorted(lines), ""])


def trainer_table() -> str:
    """One row per metric of a train pod."""
    rows = [f"| `lora_trainer_{name}` | {text} |" for name, text in sorted(GAUGES.items())]
    return "\n".join(["| metric | what it tells |", "|---|---|", *rows, ""])


def test_the_documentation_lists_everything_as_it_is(request: pytest.FixtureRequest) -> None:
    tables = {"operator": operator_table(), "trainer": trainer_table()}
    text = DOCUMENT.read_text()
    rendered = MARKED.sub(lambda found: found[1] + tables[found[2]] + found[3], text)
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(rendered)
        text = rendered
    assert [name for _, name, _ in MARKED.findall(text)] == list(tables)
    assert text == rendered, "look at the difference; if it is meant, run pytest --update-golden"


# --- alerts and dashboard -----------------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads((MONITORING / "dashboard.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


EXPRESSIONS = {rule["alert"]: rule["expr"] for rule in alerts()} | {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]
}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_alerts_and_panels_name_what_exists(expression: str) -> None:
    named = selectors(expression)
    assert named
    for selector in named:
        assert selector.metric in SERIES
        assert {label for label, _ in selector.matchers} <= SERIES[selector.metric]
        check_values(selector)
    assert groupings(expression) <= frozenset.union(*(SERIES[selector.metric] for selector in named))


def check_values(selector: Selector) -> None:
    """Reasons and results that are asked for can occur."""
    for label, value in selector.matchers:
        if label == "reason":
            assert set(value.split("|")) <= KNOWN_REASONS
        if label == "result":
            assert set(value.split("|")) <= {*RESULTS, *POLL_RESULTS}


@pytest.mark.parametrize("alert", [name for name in EXPRESSIONS if name.startswith("Lora")])
def test_an_alert_sees_the_first_event(alert: str) -> None:
    """Each value that an alert compares a counter's label with is a series at 0, before anything has happened."""
    metrics = the_metrics()
    metrics.namespace_seen("team-a")
    Loop(name="poller", work=lambda: asyncio.sleep(0), metrics=metrics)
    metrics.request_ended("get", "jobs", 200)
    for selector in selectors(EXPRESSIONS[alert]):
        if selector.metric == "lora_operator_first_step_seconds_bucket" or "_total" not in selector.metric:
            continue
        values = {
            tuple(sample.labels[label] for label, _ in selector.matchers)
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == selector.metric and (sample.value == 0 or not selector.matchers)
        }
        for position, (_, value) in enumerate(selector.matchers):
            known = {each[position] for each in values}
            assert {name for name in value.split("|") if not any(re.fullmatch(name, each) for each in known)} == set()
        assert values


def test_every_alert_says_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        named = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        assert set(named) <= groupings(rule["expr"]), rule["alert"]


def test_the_prometheus_rule_is_made_of_the_rules(request: pytest.FixtureRequest) -> None:
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "lora-operator", "namespace": "lora-operator-system"},
        "spec": yaml.safe_load((MONITORING / "rules.yaml").read_text()),
    }
    path = MONITORING / "prometheus-rule.yaml"
    rendered = "# Made of rules.yaml by pytest --update-golden. Do not edit.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=120
    )
    if request.config.getoption("--update-golden"):
        path.write_text(rendered)
    assert path.read_text() == rendered, "run pytest --update-golden"


def test_the_dashboard_fits_together() -> None:
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps(board)
    asked = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert asked <= variables
    for panel in panels():
        assert panel["description"]
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = groupings(target["expr"]) if "sum" in target["expr"] else OF_TARGETS
            assert shown <= kept, panel["title"]


def test_the_monitors_find_the_pods_and_their_ports() -> None:
    operator, trainers = yaml.safe_load_all((MONITORING / "pod-monitors.yaml").read_text())
    deployment = yaml.safe_load((ROOT / "manifests" / "operator" / "deployment.yaml").read_text())
    template = deployment["spec"]["template"]
    assert operator["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert operator["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert operator["spec"]["podMetricsEndpoints"][0]["port"] in ports
    labels = child_labels(a_run()) | {naming.STAGE_LABEL: Stage.TRAIN.value}
    assert trainers["spec"]["selector"]["matchLabels"].items() <= labels.items()
    golden = yaml.safe_load((ROOT / "tests" / "golden" / "minimal-train-job.yaml").read_text())
    pod = golden["spec"]["template"]["spec"]
    assert trainers["spec"]["podMetricsEndpoints"][0]["port"] in {p["name"] for p in pod["containers"][0]["ports"]}


def test_the_component_lists_files_that_are_there() -> None:
    component = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())
    files = {
        *component["resources"],
        *(f.partition("=")[2] for g in component["configMapGenerator"] for f in g["files"]),
    }
    as_they_are = {"rules.yaml", "kube-state-metrics.yaml", "kustomization.yaml"}
    assert files | as_they_are == {path.name for path in MONITORING.iterdir()}


def test_usage_of_runs_is_read_from_fields_that_exist() -> None:
    (resource,) = yaml.safe_load((MONITORING / "kube-state-metrics.yaml").read_text())["spec"]["resources"]
    kind = resource["groupVersionKind"]
    assert (f"{kind['group']}/{kind['version']}", kind["kind"]) == (naming.API_VERSION, naming.RUN_KIND)
    crd = yaml.safe_load((ROOT / "manifests" / "crd" / "lorafinetunes.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    documented = DOCUMENT.read_text()
    for metric in resource["metrics"]:
        gauge = metric["each"]["gauge"]
        path = (*gauge["path"], *gauge["valueFrom"])
        field = schema
        for name in path:
            field = field["properties"][name]
        assert field["type"] == "integer"
        assert f"| `lora_run_{metric['name']}` | `{'.'.join(path[1:])}` |" in documented


def test_reasons_that_alerts_wait_for_need_a_person() -> None:
    asked = next(rule["expr"] for rule in alerts() if rule["alert"] == "LoraRunsNeedAction")
    values = {value for selector in selectors(asked) for _, value in selector.matchers}
    assert set(next(iter(values)).split("|")) <= set(Reason)
