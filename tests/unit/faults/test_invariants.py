"""The checker of the fault simulation is fed with bad histories: it must object to each, and to no good one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from lora_operator import naming
from lora_operator.naming import Stage

from tests.builders import NAME, NAMESPACE, UID, after, stamp
from tests.faults.audit import CLUSTER, Write
from tests.faults.invariants import CONFIG_MAPS, FORGED_IMAGE, JOBS, PODS, RUNS, Checker, evicted_in_vain

Obj = dict[str, Any]
OPERATOR = "operator-0"


class History:
    """Writes as the API server would apply them, and what the checker says."""

    def __init__(self) -> None:
        self.checker = Checker()
        self.found: list[str] = []
        self._there: dict[str, Obj] = {}
        self._second = 0.0

    def write(self, resource: str, obj: Obj, *, by: str = CLUSTER) -> None:
        self._second += 20
        uid = obj["metadata"]["uid"]
        old = self._there.get(uid)
        self._there[uid] = copy.deepcopy(obj)
        write = Write(second=self._second, actor=by, resource=resource, old=old, new=copy.deepcopy(obj))
        self.found += self.checker.see(write)

    def delete(self, resource: str, obj: Obj) -> None:
        old = self._there.pop(obj["metadata"]["uid"])
        self.found += self.checker.see(Write(second=self._second, actor=CLUSTER, resource=resource, old=old, new=None))

    def objects_to(self, text: str) -> None:
        assert any(text in sentence for sentence in self.found), self.found


def a_body(*conditions: Obj, generation: int = 1, **status: Any) -> Obj:
    metadata = {"name": NAME, "namespace": NAMESPACE, "uid": UID, "generation": generation, "resourceVersion": "1"}
    said = {"conditions": list(conditions), "observedGeneration": generation, "resolvedDigest": "d"} | status
    spec = {"suspend": False, "output": {"uri": "s3://x/y"}}
    return {"kind": "LoraFineTune", "metadata": metadata, "spec": spec, "status": said}


def condition(kind: str, status: str, reason: str, *, seconds: float = 0) -> Obj:
    entry: Obj = {"type": kind, "status": status, "reason": reason, "message": "M.", "observedGeneration": 1}
    return entry | {"lastTransitionTime": stamp(after(seconds))}


def working(reason: str = "Training", **status: Any) -> Obj:
    return a_body(condition("Ready", "False", reason), condition("Reconciling", "True", reason), **status)


def failed(reason: str = "Diverged", **status: Any) -> Obj:
    kinds = (("Ready", "False"), ("Finished", "True"), ("Stalled", "True"))
    entries = [condition(kind, value, reason) for kind, value in kinds]
    return a_body(*entries, completionTime=stamp(after(0)), **status)


def a_job(number: int = 1, *, stage: Stage = Stage.TRAIN, uid: str | None = None, ended: bool = False) -> Obj:
    name = f"{NAME}-{stage}-{number}"
    labels = {
        naming.RUN_LABEL: NAME,
        naming.RUN_UID_LABEL: UID,
        naming.STAGE_LABEL: stage.value,
        naming.ATTEMPT_LABEL: str(number),
    }
    owner = {"uid": UID, "controller": True}
    metadata = {"name": name, "namespace": NAMESPACE, "uid": uid or name, "labels": labels, "ownerReferences": [owner]}
    conditions = [{"type": "Failed", "status": "True"}] if ended else []
    spec = {"template": {"spec": {"containers": [{"image": "of-the-class"}]}}}
    return {"kind": "Job", "metadata": metadata, "spec": spec, "status": {"conditions": conditions}}


def a_pod(number: int = 1, *, phase: str = "Running", name: str = "x") -> Obj:
    job = a_job(number)
    owner = {"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}
    named = {"name": f"{job['metadata']['name']}-{name}", "uid": f"pod-{number}-{name}", "ownerReferences": [owner]}
    return {"kind": "Pod", "metadata": job["metadata"] | named, "status": {"phase": phase}}


@pytest.fixture
def history() -> History:
    told = History()
    told.write(RUNS, a_body())
    assert told.found == []
    return told


def test_a_good_history_is_fine(history: History) -> None:
    attempts: list[Obj] = [{"stage": "train", "number": 1}]
    history.write(JOBS, a_job(), by=OPERATOR)
    history.write(RUNS, working("Starting", attempts=attempts), by=OPERATOR)
    history.write(PODS, a_pod())
    history.write(RUNS, working("Starting", attempts=attempts, progress={"step": 5}), by=OPERATOR)
    history.write(PODS, a_pod(phase="Failed"))
    history.write(JOBS, a_job(ended=True))
    attempts[0] |= {"reason": "StorageUnavailable"}
    history.write(RUNS, working("Starting", attempts=attempts, progress={"step": 5}), by=OPERATOR)
    history.write(JOBS, a_job(2), by=OPERATOR)
    history.write(PODS, a_pod(2))
    attempts.append({"stage": "train", "number": 2})
    history.write(RUNS, working("Starting", attempts=attempts, progress={"step": 3}), by=OPERATOR)
    assert history.found == []
    assert history.checker.left_over() == []


def test_two_live_train_jobs(history: History) -> None:
    history.write(JOBS, a_job(1), by=OPERATOR)
    history.write(JOBS, a_job(2), by=OPERATOR)
    history.objects_to("2 train Jobs live at once")


def test_two_train_pods_with_one_number(history: History) -> None:
    history.write(JOBS, a_job(1), by=OPERATOR)
    for index in range(2):
        pod = a_pod(1, name=str(index))
        pod["metadata"]["annotations"] = {naming.INDEX_ANNOTATION: str(index)}
        history.write(PODS, pod)
    assert history.found == [], "a run on two nodes has two"
    history.write(PODS, a_pod(1, name="0-again"))
    history.objects_to("3 train pods run at once")


def test_a_pod_that_runs_beside_that_of_a_deleted_job(history: History) -> None:
    history.write(JOBS, a_job(1), by=OPERATOR)
    history.write(PODS, a_pod(1))
    history.delete(JOBS, a_job(1))
    history.write(JOBS, a_job(2), by=OPERATOR)
    assert history.found == []
    history.write(PODS, a_pod(2))
    history.objects_to("2 train pods run at once")


def test_a_job_before_the_record() -> None:
    told = History()
    told.write(RUNS, a_body(resolvedDigest=None))
    told.write(JOBS, a_job(), by=OPERATOR)
    told.objects_to("created before the record")


def test_a_job_from_a_forged_class(history: History) -> None:
    job = a_job()
    job["spec"]["template"]["spec"]["containers"][0]["image"] = FORGED_IMAGE
    history.write(JOBS, job, by=OPERATOR)
    history.objects_to("has the image of a forged class")


@pytest.mark.parametrize("over", [True, False])
def test_a_job_while_another_run_has_the_output(history: History, over: bool) -> None:
    attempts = [{"stage": "train", "number": 1}]
    other = failed(attempts=attempts) if over else working("Training", attempts=attempts)
    other["metadata"] |= {"name": "other", "uid": "another"}
    history.write(RUNS, other)
    history.write(JOBS, a_job(), by=OPERATOR)
    if over:
        assert history.found == []
    else:
        history.objects_to("was created while other has the same output")


def test_a_record_that_changes_after_the_start(history: History) -> None:
    history.write(RUNS, working("Starting", attempts=[{"stage": "train", "number": 1}]), by=OPERATOR)
    later = working("Starting", attempts=[{"stage": "train", "number": 1}], resolvedDigest="e")
    history.write(RUNS, later, by=OPERATOR)
    history.objects_to("resolvedDigest changed after the run had begun")


def test_a_job_after_the_end(history: History) -> None:
    history.write(RUNS, failed(), by=OPERATOR)
    history.write(JOBS, a_job(), by=OPERATOR)
    history.objects_to("created after the run was over")


def test_a_pod_that_begins_after_the_end(history: History) -> None:
    history.write(JOBS, a_job(), by=OPERATOR)
    history.write(PODS, a_pod(phase="Pending"))
    history.write(RUNS, failed(), by=OPERATOR)
    assert history.found == []
    history.write(PODS, a_pod())
    history.objects_to("began to train although the run was over")


def test_an_attempt_that_is_made_again(history: History) -> None:
    history.write(JOBS, a_job(), by=OPERATOR)
    history.write(RUNS, working("Starting", attempts=[{"stage": "train", "number": 1}]), by=OPERATOR)
    history.delete(JOBS, a_job())
    history.write(JOBS, a_job(uid="another"), by=OPERATOR)
    history.objects_to("created again although its attempt is on record")


@pytest.mark.parametrize("resource", [JOBS, CONFIG_MAPS])
def test_a_child_without_an_owner(history: History, resource: str) -> None:
    child = a_job()
    del child["metadata"]["ownerReferences"]
    history.write(resource, child, by=OPERATOR)
    history.objects_to("without its run as owner")


def test_what_is_left_over(history: History) -> None:
    history.write(JOBS, a_job(), by=OPERATOR)
    history.write(RUNS, failed(), by=OPERATOR)
    assert history.checker.left_over() == [f"Job {NAME}-train-1 works for a run that is over"]
    history.delete(RUNS, failed())
    assert history.checker.left_over() == [f"{JOBS} {NAME}-train-1 is an orphan"]


def changed(before: Obj, **fields: Any) -> Obj:
    return before | {"status": before["status"] | fields}


FIRST = {"stage": "train", "number": 1, "reason": "OutOfMemory"}
SECOND = {"stage": "train", "number": 2}
RETREATS = [
    (failed(), working("Training"), "Finished was taken back"),
    (failed(), failed("DeadlineExceeded"), "conditions changed after the run was over"),
    (failed(), changed(failed(), completionTime=stamp(after(9))), "completionTime changed after the run was over"),
    (working(attempts=[FIRST, SECOND]), working(attempts=[FIRST]), "attempt numbers of train went"),
    (working(attempts=[FIRST]), working(attempts=[FIRST | {"reason": "PodLost"}]), "was rewritten"),
    (working(resumptions=2), working(resumptions=1), "resumptions fell from 2 to 1"),
    (working(adjustments=[{"attempt": 2}]), working(adjustments=[]), "adjustments were taken back"),
    (working(runDigest="a"), working(runDigest="b"), "runDigest changed"),
    (working(progress={"step": 9}), working(progress={"step": 8}), "progress fell from step 9 to 8"),
    (working(), {key: value for key, value in a_body().items() if key != "status"}, "status was taken away"),
]


@pytest.mark.parametrize(("before", "now", "sentence"), RETREATS, ids=[row[2] for row in RETREATS])
def test_a_status_that_goes_back(history: History, before: Obj, now: Obj, sentence: str) -> None:
    history.write(RUNS, before, by=OPERATOR)
    assert history.found == []
    history.write(RUNS, now, by=OPERATOR)
    history.objects_to(sentence)


def test_a_generation_that_falls(history: History) -> None:
    history.write(RUNS, a_body(condition("Ready", "False", "Queued"), generation=1, observedGeneration=1))
    newer = a_body(condition("Ready", "False", "Queued") | {"observedGeneration": 2}, generation=2)
    history.write(RUNS, newer)
    assert history.found == []
    older = a_body(condition("Ready", "False", "Queued"), generation=2)
    older["status"]["observedGeneration"] = 1
    history.write(RUNS, older)
    history.objects_to("observedGeneration fell from 2 to 1")


def test_an_attempt_that_ended_before_it_began(history: History) -> None:
    attempt = FIRST | {"startTime": stamp(after(60)), "endTime": stamp(after(0))}
    history.write(RUNS, working(attempts=[attempt]), by=OPERATOR)
    history.objects_to("ended before it began")


def test_an_operator_that_writes_what_is_the_users(history: History) -> None:
    mine = a_body()
    mine["spec"]["suspend"] = True
    history.write(RUNS, mine, by=OPERATOR)
    history.objects_to("wrote more than the status of lorafinetunes")


def test_an_operator_that_writes_pods(history: History) -> None:
    history.write(PODS, a_pod(), by=OPERATOR)
    history.objects_to(f"{OPERATOR} wrote pods")


def test_a_pod_that_no_job_made_is_none_of_the_run(history: History) -> None:
    history.write(JOBS, a_job(), by=OPERATOR)
    history.write(PODS, a_pod())
    foreign = a_pod(name="foreign")
    foreign["metadata"]["ownerReferences"] = []
    history.write(PODS, foreign)
    assert history.found == []


def test_an_attempt_that_ends_in_the_future(history: History) -> None:
    ended = {"stage": "train", "number": 1, "startTime": stamp(after(0)), "endTime": stamp(after(3600))}
    history.write(RUNS, working(attempts=[ended]), by=OPERATOR)
    history.objects_to("which is in the future")


def evicted(*, pods: int, count: int, reason: str) -> list[Write]:
    """A history in which so many pods of one Job followed each other."""
    made = [a_pod(name=str(number)) for number in range(pods)]
    run = a_body(condition("Ready", "False", reason), disruptions={"count": count})
    of_pods = [Write(second=0, actor=CLUSTER, resource=PODS, old=None, new=pod) for pod in made]
    return [*of_pods, Write(second=0, actor=OPERATOR, resource=RUNS, old=None, new=run)]


def test_evictions_that_are_counted_and_told_are_fine() -> None:
    assert evicted_in_vain(evicted(pods=6, count=6, reason="RepeatedlyDisrupted"), times=6) == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"pods": 20}, "20 pods of one Job"),
        ({"count": 5}, "6 evictions count as 5"),
        ({"reason": "Training"}, "nobody was told"),
    ],
)
def test_evictions_that_go_on_unseen(changed: dict[str, Any], text: str) -> None:
    (found,) = evicted_in_vain(evicted(**({"pods": 6, "count": 6, "reason": "RepeatedlyDisrupted"} | changed)), times=6)
    assert text in found
