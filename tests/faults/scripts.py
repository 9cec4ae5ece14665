"""What becomes of each run: how its pods would end, what its user does, and how it must end for that.

`expected` holds however much the operators and the API server are disturbed. Where people and nodes disturb the run's
own children, `judge` decides from what happened to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from lora_operator.naming import Stage
from lora_trainer.contract.exits import ExitCode

from tests.builders import an_artifact, failed_text, prepared_text, trained_text

TOTAL_STEPS = 60
SAVE_STEPS = 20
MICRO_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class End:
    """How a pod ends: after so many seconds of work, None for never; `bare` leaves no termination message."""

    code: int = 0
    seconds: float | None = 15.0
    bare: bool = False
    kubelet_reason: str = ""
    reused: bool = False
    stuck: bool = False
    """It still answers, and makes no steps."""

    def text(self, stage: Stage, *, step: int, from_step: int) -> str:
        """The termination message."""
        if self.bare:
            return ""
        if self.code:
            return failed_text(ExitCode(self.code), step=step if stage is Stage.TRAIN else None)
        if stage is Stage.TRAIN:
            return trained_text(step=step, from_step=from_step or None)
        artifact = an_artifact() if self.reused else None
        return prepared_text(micro_batch=MICRO_BATCH, max_steps=TOTAL_STEPS, artifact=artifact)


class Deed(Enum):
    """What a user does to a run."""

    SUSPEND = auto()
    RESUME = auto()
    DELETE = auto()
    APPLY_AGAIN = auto()
    """The same name, another run."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """The story of one run. The last end of a stage repeats; a train pod without an error ends at the last step."""

    name: str
    expected: str | None
    """The reason of Ready at the end; None for a run that is deleted."""
    prepare: tuple[End, ...] = (End(),)
    train: tuple[End, ...] = (End(),)
    """Of several nodes, those of the first."""
    beside: tuple[End, ...] = ()
    """How the pods of further nodes end at the same time; beyond these they take their share and end well."""
    spec: dict[str, Any] = field(default_factory=dict)
    deeds: tuple[tuple[float, Deed], ...] = ()
    """Seconds after the run was applied, and what is done then."""

    def end(self, stage: Stage, number: int, *, index: int) -> End:
        """How a pod ends of the attempt that follows so many others."""
        if index > 0:
            return self.beside[number] if number < len(self.beside) else End()
        ends = self.prepare if stage is Stage.PREPARE else self.train
        return ends[min(number, len(ends) - 1)]


ONE_OUTPUT = {"output": {"uri": "s3://team-a/adapters/one"}}
"""Of runs that must train one after the other."""
TWO_NODES = {"parallelism": {"nodes": 2}}
STORAGE, BUG, OOM = End(code=50), End(code=1), End(code=30, seconds=8)
STUCK = End(seconds=None, stuck=True)
HOST_OOM = End(code=137, bare=True, kubelet_reason="OOMKilled")

SCRIPTS = (
    Script(name="plain", expected="AdapterPublished"),
    Script(name="reused", expected="AdapterReused", prepare=(End(reused=True),)),
    Script(name="bad-data", expected="DatasetInvalid", prepare=(End(code=11),)),
    Script(name="diverged", expected="Diverged", train=(End(code=19),)),
    Script(name="shrunk", expected="AdapterPublished", train=(OOM, OOM, End())),
    Script(name="too-big", expected="OutOfMemory", train=(OOM,)),
    Script(name="flaky", expected="AdapterPublished", train=(STORAGE, STORAGE, End()), spec={"retryLimit": 6}),
    Script(name="no-bucket", expected="StorageUnavailable", train=(STORAGE,), spec={"retryLimit": 1}),
    Script(name="flaky-prepare", expected="AdapterPublished", prepare=(End(code=51), End()), spec={"retryLimit": 6}),
    Script(name="bug-once", expected="AdapterPublished", train=(BUG, End())),
    Script(name="bug", expected="InternalError", train=(BUG,)),
    Script(name="host-memory", expected="OutOfHostMemory", train=(HOST_OOM,)),
    Script(name="mute-once", expected="AdapterPublished", train=(End(bare=True), End())),
    Script(name="hung", expected="DeadlineExceeded", train=(End(seconds=None),), spec={"maxRuntimeSeconds": 200}),
    Script(name="stuck-once", expected="AdapterPublished", train=(STUCK, End())),
    Script(name="stuck", expected="NoProgress", train=(STUCK,)),
    Script(name="in-time", expected="AdapterPublished", spec={"maxRuntimeSeconds": 3600}),
    Script(name="short-lived", expected="AdapterPublished", spec={"jobRetentionSeconds": 60}),
    Script(
        name="paused",
        expected="AdapterPublished",
        deeds=((45, Deed.SUSPEND), (90, Deed.RESUME), (140, Deed.SUSPEND), (141, Deed.RESUME)),
    ),
    Script(name="held", expected="AdapterPublished", spec={"suspend": True}, deeds=((60, Deed.RESUME),)),
    Script(name="rival", expected="AdapterPublished", spec=ONE_OUTPUT),
    Script(
        name="rival-paused", expected="AdapterPublished", spec=ONE_OUTPUT, deeds=((30, Deed.SUSPEND), (50, Deed.RESUME))
    ),
    Script(
        name="rival-held", expected="AdapterPublished", spec=ONE_OUTPUT | {"suspend": True}, deeds=((40, Deed.RESUME),)
    ),
    Script(name="two-nodes", expected="AdapterPublished", spec=TWO_NODES),
    Script(name="two-nodes-shrunk", expected="AdapterPublished", beside=(OOM, OOM), spec=TWO_NODES),
    Script(name="two-nodes-bug", expected="InternalError", train=(End(), BUG), beside=(BUG,), spec=TWO_NODES),
    Script(
        name="two-nodes-killed",
        expected="AdapterPublished",
        beside=(End(code=137, bare=True, seconds=25),),
        spec=TWO_NODES | {"retryLimit": 6},
    ),
    Script(name="deleted", expected=None, deeds=((50, Deed.DELETE),)),
    Script(name="again", expected="AdapterPublished", deeds=((40, Deed.DELETE), (42, Deed.APPLY_AGAIN))),
)
