"""The informer's memory: newest version wins, groups stay true; and what the watches tell, object by object."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_operator import naming
from lora_operator.engine.cache import Cache
from lora_operator.kube.store import Key, Store
from lora_operator.planning.reading import job_view, pod_view

from tests.builders import NAME, NAMESPACE, OUTPUT, RUN_ID, UID, a_resolved, a_run, after, class_body, run_body

Body = dict[str, Any]
BORN = "2026-01-01T12:00:00Z"
KEY = ("ns", "a")


def store() -> Store[str]:
    return Store(lambda value: value[0])


def test_an_older_version_does_not_overwrite_a_newer_one() -> None:
    kept = store()
    kept.put(KEY, 2, "new")
    kept.put(KEY, 1, "old")
    assert kept.get(KEY) == "new"
    kept.put(KEY, 2, "next")
    assert kept.get(KEY) == "next", "the same version again is not older"


def test_a_late_word_of_a_deletion_does_not_drop_the_successor() -> None:
    kept = store()
    kept.put(KEY, 7, "successor")
    assert kept.drop(KEY, version=6) is None
    assert kept.get(KEY) == "successor"
    assert kept.drop(KEY, version=7) == "successor"


def test_groups_follow_the_value() -> None:
    kept = store()
    kept.put(KEY, 1, "x1")
    kept.put(("ns", "b"), 1, "x2")
    kept.put(KEY, 2, "y1")
    assert kept.of("x") == ("x2",)
    assert kept.keys_of("y") == {KEY}
    assert kept.drop(KEY) == "y1"
    assert kept.of("y") == ()
    assert kept.drop(KEY) is None
    assert len(kept) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 9), st.sampled_from("xyz"))))
def test_groups_and_entries_never_drift_apart(steps: list[tuple[bool, int, int, str]]) -> None:
    kept = store()
    for put, name, version, value in steps:
        key = ("ns", str(name))
        if put:
            kept.put(key, version, value)
        else:
            kept.drop(key)
        grouped = {key: value for group in "xyz" for key in kept.keys_of(group) for value in [kept.get(key)]}
        assert grouped.keys() == kept.versions().keys()
        assert all(value in kept.of(value) for value in kept.values())


# --- the cache ----------------------------------------------------------------------------------------------------


def stored(body: Body, *, version: int = 1, uid: str = UID) -> Body:
    metadata = {
        "uid": uid,
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T12:00:00Z",
    }
    return body | {"metadata": body["metadata"] | metadata}


def owned_by(kind: str, uid: str) -> Body:
    return {"ownerReferences": [{"kind": kind, "name": "any", "uid": uid, "controller": True}]}


def child(name: str, **fields: Any) -> Body:
    """A Job of the run, or a pod of a Job."""
    labels = {naming.RUN_LABEL: NAME, naming.RUN_UID_LABEL: UID, naming.STAGE_LABEL: "train", naming.ATTEMPT_LABEL: "1"}
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "labels": labels}
    metadata |= {"resourceVersion": "1", "creationTimestamp": "2026-01-01T12:00:00Z"}
    metadata |= owned_by(naming.RUN_KIND, UID) if name == "job" else owned_by("Job", "uid-job")
    return {"metadata": metadata, "spec": {}, "status": {}} | fields


def a_stored_run(name: str, *, ready: str = "", true: str = "", begun: bool = False, **spec: Any) -> Body:
    """A run with this reason of Ready, and this further condition that is True."""
    conditions = [{"type": "Ready", "status": "False", "reason": ready}] if ready else []
    conditions += [{"type": true, "status": "True", "reason": ready}] if true else []
    status = {"conditions": conditions} | ({"attempts": [{"stage": "prepare", "number": 1}]} if begun else {})
    return stored(run_body(name, **spec), uid=f"uid-{name}") | {"status": status}


HOLDS = (
    {},
    {"ready": "Preparing", "begun": True},
    {"ready": "Training", "begun": True},
    {"ready": "ChildRefused", "true": "Stalled", "begun": True},
    {"suspend": True, "begun": True},
)
LETS_GO = (
    {"ready": "ClassNotFound", "true": "Stalled"},
    {"suspend": True},
    {"ready": "Diverged", "true": "Finished", "begun": True},
    {"ready": "AdapterPublished", "true": "Finished", "begun": True},
)


def waiting_for_a() -> tuple[Cache, list[Key]]:
    """Run a, which could start, and others with its output: one that waits, one that is new and one that is over. The
    list shows whom the cache wakes."""
    woken: list[Key] = []
    cache = Cache(wake=woken.extend)
    others: dict[str, Body] = {"waits": {}, "over": {"true": "Finished"}, "far": {"output": {"uri": "s3://else/where"}}}
    for name, said in others.items():
        assert cache.put_run(a_stored_run(name, ready="OutputInUse", **said)) == {(NAMESPACE, name)}
    cache.put_run(a_stored_run("new"))
    cache.put_run(a_stored_run("a"))
    assert woken == []
    return cache, woken


@pytest.mark.parametrize("change", HOLDS)
def test_a_run_that_keeps_its_output_wakes_nobody(change: Body) -> None:
    cache, woken = waiting_for_a()
    assert cache.put_run(a_stored_run("a", **change)) == {(NAMESPACE, "a")}
    assert woken == []


@pytest.mark.parametrize("change", LETS_GO)
def test_a_run_that_lets_go_of_its_output_wakes_those_that_wait_for_it_once(change: Body) -> None:
    cache, woken = waiting_for_a()
    cache.put_run(a_stored_run("a", **change))
    assert woken == [(NAMESPACE, "waits")]
    cache.put_run(a_stored_run("a", **change))
    assert len(woken) == 1


def test_a_run_that_is_gone_wakes_those_that_wait_for_its_output() -> None:
    cache, woken = waiting_for_a()
    assert cache.drop_run(a_stored_run("a")) == frozenset()
    assert woken == [(NAMESPACE, "waits")]
    cache.drop_run(a_stored_run("a"))
    assert len(woken) == 1


def holder(cache: Cache, *, uid: str = "uid-b", seconds: float = 1) -> Key | None:
    """Who holds the output against a run of this uid, created so many seconds after the others."""
    return cache.output_holder(uid, created=after(seconds), output=OUTPUT)


@pytest.mark.parametrize("change", HOLDS)
def test_a_run_that_has_begun_or_could_start_holds_its_output(change: Body) -> None:
    cache = Cache()
    cache.put_run(a_stored_run("a", **change))
    assert holder(cache) == (NAMESPACE, "a")
    assert holder(cache, uid="uid-a") is None, "not against itself"
    older = holder(cache, seconds=-1)
    assert older == ((NAMESPACE, "a") if change.get("begun") else None), "only one that has begun, against an older one"


@pytest.mark.parametrize("change", LETS_GO)
def test_a_run_that_is_over_or_cannot_start_holds_no_output(change: Body) -> None:
    cache = Cache()
    cache.put_run(a_stored_run("a", **change))
    assert holder(cache) is None


def test_a_run_begins_with_its_first_job_and_not_with_one_that_others_create() -> None:
    cache = Cache()
    cache.put_run(a_stored_run("a", suspend=True))
    job = child("job")
    job["metadata"]["labels"][naming.RUN_UID_LABEL] = "uid-a"
    job["metadata"] |= owned_by(naming.RUN_KIND, "uid-a")
    assert cache.put_job(job)
    assert holder(cache) is None, "the operator has not decided to start it"
    recorded = a_stored_run("a", suspend=True)
    recorded["status"]["resolvedDigest"] = "d" * 64
    cache.put_run(recorded)
    assert holder(cache, seconds=-1) == (NAMESPACE, "a")


def test_a_run_whose_job_is_being_created_holds_its_output_also_against_older_ones() -> None:
    cache = Cache()
    cache.put_run(a_stored_run("a"))
    cache.starting.add("uid-a")
    assert holder(cache, seconds=-1) == (NAMESPACE, "a")


@pytest.mark.parametrize("how", ["finished", "deleted", "created again"])
def test_nothing_is_remembered_of_a_run_that_is_over(how: str) -> None:
    cache = Cache()
    cache.put_run(a_stored_run("a"))
    remember = partial(cache.remember_resolved, (NAMESPACE, "a"), "uid-a", a_resolved(a_run()))
    remember()
    cache.starting.add("uid-a")
    assert list(cache.resolved) == ["uid-a"]
    if how == "finished":
        cache.put_run(a_stored_run("a", ready="Diverged", true="Finished"))
    elif how == "deleted":
        cache.drop_run(a_stored_run("a"))
    else:
        again = stored(run_body("a"), uid="another", version=9)
        cache.put_run(again)
    remember()  # by a reconcile that began before
    assert not cache.resolved
    assert how == "finished" or not cache.starting


def test_a_class_wakes_every_run() -> None:
    cache = Cache()
    cache.put_run(stored(run_body("a"), uid="1"))
    assert cache.put_class(stored(class_body())) == {(NAMESPACE, "a")}
    assert cache.drop_class(stored(class_body())) == {(NAMESPACE, "a")}


def test_the_status_of_a_class_wakes_nobody() -> None:
    cache = Cache()
    cache.put_run(stored(run_body("a"), uid="1"))
    cache.put_class(stored(class_body()))
    told = stored(class_body()) | {"status": {"unfinishedRuns": 3}}
    assert cache.put_class(told) == frozenset()
    changed = stored(class_body())
    changed["metadata"]["generation"] += 1
    assert cache.put_class(changed) == {(NAMESPACE, "a")}
    assert cache.put_class(changed | {"metadata": changed["metadata"] | {"uid": "recreated"}}) == {(NAMESPACE, "a")}


def test_children_wake_their_run_and_hang_together() -> None:
    cache = Cache()
    assert cache.put_job(child("job")) == {(NAMESPACE, NAME)}
    pod = child("pod")
    assert cache.put_pod(pod) == {(NAMESPACE, NAME)}
    orphan = child("orphan")
    orphan["metadata"] |= owned_by("Job", "uid-another")
    cache.put_pod(orphan)
    (job,) = cache.children_of(RUN_ID)
    assert [view.name for view in job.pods] == ["pod"]
    assert cache.drop_pod(pod) == {(NAMESPACE, NAME)}
    assert cache.drop_job(child("job")) == {(NAMESPACE, NAME)}
    assert cache.children_of(RUN_ID) == ()


def test_a_child_in_another_namespace_is_not_the_run_s_whatever_uid_it_names() -> None:
    cache = Cache()
    for put, name in ((cache.put_job, "job"), (cache.put_pod, "pod")):
        forged = child(name)
        forged["metadata"]["namespace"] = "attacker"
        put(forged)
    assert cache.children_of(RUN_ID) == ()
    assert cache.orphans_of(RUN_ID) == ()


def test_unfinished_cleanups_are_counted_by_namespace() -> None:
    cache = Cache()
    job, elsewhere, over, train = (child("job") for _ in range(4))
    for body, name in ((over, "over"), (train, "train")):
        body["metadata"]["name"] = name
    elsewhere["metadata"]["namespace"] = "team-b"
    over["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    for body in (job, elsewhere, over):
        body["metadata"]["labels"][naming.STAGE_LABEL] = "cleanup"
    for body in (job, elsewhere, over, train):
        cache.put_job(body)
    assert (cache.unfinished_cleanups(NAMESPACE), cache.unfinished_cleanups("team-b")) == (1, 1)
    cache.drop_job(job)
    assert (cache.unfinished_cleanups(NAMESPACE), cache.unfinished_cleanups("team-b")) == (0, 1)


FOREIGN: dict[str, Callable[[Body], None]] = {
    "no label of a run": lambda body: body["metadata"]["labels"].pop(naming.RUN_UID_LABEL),
    "a number that is none": lambda body: body["metadata"]["labels"].update({naming.ATTEMPT_LABEL: "first"}),
    "no name of a run": lambda body: body["metadata"]["labels"].pop(naming.RUN_LABEL),
    "no stage": lambda body: body["metadata"]["labels"].update({naming.STAGE_LABEL: "serve"}),
    "no owner": lambda body: body["metadata"].pop("ownerReferences"),
    "an owner that does not control it": lambda body: body["metadata"]["ownerReferences"][0].pop("controller"),
    "an owner of another kind": lambda body: body["metadata"].update(owned_by("ReplicaSet", UID)),
}
POD_FOREIGN = {
    "an index that is no number": lambda body: body["metadata"].update(annotations={naming.INDEX_ANNOTATION: "first"}),
    "a status of no sense": lambda body: body.update(status={"containerStatuses": [7]}),
}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *(("job", FOREIGN[why]) for why in FOREIGN),
        *(("pod", FOREIGN[why]) for why in ("no label of a run", "no name of a run", "no owner")),
        *(("pod", spoil) for spoil in POD_FOREIGN.values()),
    ],
)
def test_an_object_that_only_looks_like_ours_is_ignored(
    name: str, spoil: Callable[[Body], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache, body = Cache(), child(name)
    spoil(body)
    put, drop = (cache.put_job, cache.drop_job) if name == "job" else (cache.put_pod, cache.drop_pod)
    for _ in range(2):
        assert put(body) == frozenset()
    assert (len(cache.jobs), len(cache.pods), len(cache.foreign)) == (0, 0, 1)
    assert len(caplog.records) == 1, "told once"
    assert drop(body) == frozenset()
    assert cache.foreign == set()


def test_a_job_is_of_the_run_that_owns_it() -> None:
    cache, body = Cache(), child("job")
    body["metadata"] |= owned_by(naming.RUN_KIND, "another")
    assert cache.put_job(body) == frozenset()


def test_an_ignored_object_that_is_gone_unnoticed_is_forgotten() -> None:
    cache, body = Cache(), child("pod")
    body["metadata"].pop("ownerReferences")
    cache.put_pod(body)
    cache.keep_foreign("Job", set())
    cache.keep_foreign("Pod", {(NAMESPACE, "pod")})
    assert len(cache.foreign) == 1
    cache.keep_foreign("Pod", set())
    assert cache.foreign == set()


def test_the_trainer_is_read_whatever_stands_beside_it() -> None:
    ended = {"terminated": {"exitCode": 11, "finishedAt": BORN, "startedAt": BORN}}
    beside = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 0, "finishedAt": BORN, "startedAt": BORN}}}
    for statuses in (
        [beside, {"name": naming.CONTAINER, "state": ended}],
        [{"name": naming.CONTAINER, "state": ended}, beside],
    ):
        view = pod_view(child("pod", status={"containerStatuses": statuses}))
        assert view.termination is not None
        assert view.termination.exit_code == 11


# --- views --------------------------------------------------------------------------------------------------------


def job_status(*conditions: tuple[str, str]) -> Body:
    return {"conditions": [{"type": kind, "status": status, "message": "m"} for kind, status in conditions]}


def test_only_final_conditions_finish_a_job() -> None:
    for kinds, finished in (
        ((), None),
        ((("FailureTarget", "True"),), None),
        ((("SuccessCriteriaMet", "True"),), None),
        ((("FailureTarget", "True"), ("Failed", "True")), "Failed"),
        ((("Complete", "True"),), "Complete"),
        ((("Failed", "False"),), None),
    ):
        assert job_view(child("job", status=job_status(*kinds))).finished == finished


def container(**state: Any) -> Body:
    return {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": state}]}


def test_a_pod_is_read_as_the_kubelet_wrote_it() -> None:
    running = pod_view(
        child("p", status=container(running={"startedAt": "2026-01-01T12:00:05Z"}) | {"podIP": "1.2.3.4"})
    )
    assert running.started is not None
    assert (running.ip, running.termination) == ("1.2.3.4", None)
    ended = {"exitCode": 11, "reason": "Error", "message": "{}"}
    ended |= {"startedAt": "2026-01-01T12:00:05Z", "finishedAt": "2026-01-01T12:00:09Z"}
    dead = pod_view(child("p", status=container(terminated=ended)))
    assert dead.termination is not None
    assert (dead.termination.exit_code, dead.termination.text) == (11, "{}")
    waiting = pod_view(child("p", status=container(waiting={"reason": "ErrImagePull", "message": "no"})))
    assert (waiting.waiting_reason, waiting.waiting_message) == ("ErrImagePull", "no")


def test_a_container_that_never_ran_has_no_last_word() -> None:
    """A node that is lost leaves `terminated` without times, and so does a pod that never started."""
    assert pod_view(child("p", status=container(terminated={"exitCode": 137, "finishedAt": None}))).termination is None
    assert pod_view(child("p")).termination is None


def test_only_unschedulable_is_told_of_the_scheduler() -> None:
    for condition, told in (
        ({"status": "False", "reason": "Unschedulable", "message": "no room"}, "no room"),
        ({"status": "False", "reason": "SchedulingGated", "message": "gated"}, None),
        ({"status": "True"}, None),
    ):
        status = {"phase": "Pending", "conditions": [{"type": "PodScheduled"} | condition]}
        assert pod_view(child("p", status=status)).unschedulable == told
