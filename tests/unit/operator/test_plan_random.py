"""The planner in random worlds: whatever happens, the invariants hold, and a kind world brings the run to its end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lora_operator.naming import Stage
from lora_operator.planning.observed import PolledProgress
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import a_class, a_run, prepared_text, trained_text
from tests.unit.operator.simulation import Simulation

CODES = st.sampled_from([*(int(code) for code in ExitCode if code not in (0, 40)), 2, 137, 139, 143])
TEXTS = st.sampled_from(["", "Killed", '{"reason":"X","message":"Something."}'])


class RunLife(RuleBasedStateMachine):
    """One run, and a world that is not always kind to it."""

    @initialize(
        retry_limit=st.integers(0, 3),
        micro_batch=st.integers(1, 9),
        deadline=st.none() | st.integers(60, 5000),
        slow_deletion=st.booleans(),
    )
    def begin(self, retry_limit: int, micro_batch: int, deadline: int | None, slow_deletion: bool) -> None:
        limits: dict[str, Any] = {"retryLimit": retry_limit} | ({"maxRuntimeSeconds": deadline} if deadline else {})
        run = a_run(**limits)
        self.world = Simulation(run=run, slow_deletion=slow_deletion)
        self.micro_batch = micro_batch
        self.created_at_end: int | None = None

    def ready_jobs(self) -> list[str]:
        return [name for name, job in self.world.jobs.items() if not job.over and not job.deleting and job.newest_pod]

    @rule()
    def reconcile(self) -> None:
        self.world.reconcile()

    @rule()
    def turn_without_status_write(self) -> None:
        self.world.reconcile(lose_status=True)

    @rule(seconds=st.integers(1, 700))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.ready_jobs())
    @rule(data=st.data())
    def a_pod_starts(self, data: st.DataObject) -> None:
        self.world.start(data.draw(st.sampled_from(self.ready_jobs())))

    @precondition(lambda self: self.ready_jobs())
    @rule(data=st.data(), code=CODES, text=TEXTS)
    def a_pod_fails(self, data: st.DataObject, code: int, text: str) -> None:
        self.world.end(data.draw(st.sampled_from(self.ready_jobs())), code, text)

    @precondition(lambda self: self.ready_jobs())
    @rule(data=st.data())
    def a_pod_is_interrupted(self, data: st.DataObject) -> None:
        self.world.end(data.draw(st.sampled_from(self.ready_jobs())), 40)

    @precondition(lambda self: self.ready_jobs())
    @rule(data=st.data())
    def a_pod_succeeds(self, data: st.DataObject) -> None:
        self.succeed(data.draw(st.sampled_from(self.ready_jobs())))

    @precondition(lambda self: self.ready_jobs())
    @rule(data=st.data())
    def a_pod_makes_no_more_steps(self, data: st.DataObject) -> None:
        pod = self.world.jobs[data.draw(st.sampled_from(self.ready_jobs()))].newest_pod
        assert pod is not None
        shown = Progress(phase=Phase.TRAINING, step=4, total_steps=9, step_seconds=1.0)
        long = timedelta(hours=1)
        self.world.reconcile(polled=PolledProgress(progress=shown, time=self.world.now, pod=pod.name, unchanged=long))

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data())
    def a_job_is_deleted(self, data: st.DataObject) -> None:
        self.world.delete_job(data.draw(st.sampled_from(sorted(self.world.jobs))))

    @rule()
    def deleted_jobs_are_gone(self) -> None:
        self.world.finish_deletions()

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        if suspend != self.world.run.spec.suspend:
            self.world.edit(suspend=suspend)

    @rule(there=st.booleans())
    def the_class_comes_and_goes(self, there: bool) -> None:
        self.world.classes = (a_class(),) if there else ()

    def succeed(self, job: str) -> None:
        preparing = self.world.jobs[job].stage is Stage.PREPARE
        self.world.end(job, 0, prepared_text(micro_batch=self.micro_batch) if preparing else trained_text())

    @invariant()
    def one_train_job_works_at_most(self) -> None:
        assert len(self.world.live_train_jobs) <= 1, self.world.live_train_jobs

    @invariant()
    def attempts_are_numbered_upwards(self) -> None:
        for stage in Stage:
            numbers = [attempt.number for attempt in self.world.run.status.of(stage)]
            assert numbers == sorted(set(numbers))

    @invariant()
    def closed_records_are_complete(self) -> None:
        for attempt in self.world.run.status.attempts:
            ended = attempt.reason is not None
            assert (attempt.exit_class is not None) == ended
            assert attempt.end_time is not None or not ended
            assert (attempt.message is not None) == (ended and attempt.reason != ExitCode.Succeeded.name)
            assert attempt.duration_seconds is not None or not (ended and attempt.start_time)

    @invariant()
    def nothing_is_created_after_the_end(self) -> None:
        if self.created_at_end is not None:
            assert len(self.world.created) == self.created_at_end
        elif self.world.run.status.terminal:
            self.created_at_end = len(self.world.created)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.be_kind()
            assert self.world.run.status.terminal, self.world.reason

    def be_kind(self) -> None:
        """The class is there, nobody interferes, time passes, pods succeed: the run must come to an end."""
        self.world.classes = (a_class(),)
        if self.world.run.spec.suspend:
            self.world.edit(suspend=False)
        for _ in range(12):
            self.world.finish_deletions()
            self.world.settle()
            if self.world.run.status.terminal:
                return
            for job in self.ready_jobs():
                self.succeed(job)
            self.world.pass_time(400)


RunLife.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    derandomize=True,
)
test_random_lives = RunLife.TestCase
