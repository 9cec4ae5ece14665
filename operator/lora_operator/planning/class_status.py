"""What a class's status says: whether it is offered, how many runs use it, and what is wrong with it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from lora_operator.api.conditions import ConditionType, put
from lora_operator.api.lorafinetuneclass import ClassProblem, ClassStatus
from lora_operator.api.reasons import Reason
from lora_operator.naming import DEFAULT_CLASS_ANNOTATION
from lora_operator.planning.observed import ClassView


def class_status(
    view: ClassView, *, defaults: Sequence[str], unfinished: int, problems: Counter[str], now: datetime
) -> ClassStatus:
    """The status of a class. `defaults` names the classes that are marked as default; `problems` counts the unfinished
    runs that need a person by the reason."""
    invalid = view.spec is None
    paused = view.spec is not None and view.spec.paused
    reason = Reason.CLASS_INVALID if invalid else Reason.CLASS_PAUSED if paused else Reason.OFFERED
    message = f"The operator cannot use this class: {view.error}. Fix the field." if invalid else _offer(view, defaults)
    if paused:
        message = "spec.paused is true: no attempt starts; those that run go on. Set it to false to resume."
    conditions = view.status.conditions
    for kind, status in ((ConditionType.READY, not invalid and not paused), (ConditionType.STALLED, invalid)):
        conditions = put(
            conditions,
            kind,
            status=status,
            reason=reason,
            message=message,
            generation=view.generation,
            now=now,
        )
    return ClassStatus(
        observed_generation=view.generation,
        conditions=conditions,
        unfinished_runs=unfinished,
        problems=tuple(
            ClassProblem(reason=reason, runs=runs)
            for reason, runs in sorted(problems.items(), key=lambda problem: (-problem[1], problem[0]))
        ),
    )


def _offer(view: ClassView, defaults: Sequence[str]) -> str:
    restricted = view.spec is not None and view.spec.namespace_selector is not None
    where = " in the namespaces that its spec.namespaceSelector selects" if restricted else ""
    if not view.is_default:
        return f"Runs that name this class use it{where}."
    if len(defaults) == 1:
        return f"Runs that name this class use it, and runs that name no class{where}."
    return (
        f"Runs that name this class use it{where}. Runs that name no class are refused: "
        f"{', '.join(sorted(defaults))} are all marked as default. Remove the annotation "
        f"{DEFAULT_CLASS_ANNOTATION} from all but one."
    )
