"""Writes the status of classes at intervals, because it changes with every run."""

from __future__ import annotations

from collections import Counter, defaultdict

from lora_operator.engine.cache import Cache
from lora_operator.engine.loops import each
from lora_operator.engine.observer import Clock
from lora_operator.kube.errors import Conflict, NotFound
from lora_operator.kube.gateway import CLASSES, Gateway
from lora_operator.planning.class_status import class_status
from lora_operator.planning.observed import ClassView

SECONDS = 10.0
"""Time between two checks of all classes. The counts change with each run, and need not be newer than this."""


async def write_class_status(*, gateway: Gateway, cache: Cache, clock: Clock) -> None:
    """Write the status of each class whose status is not what it should be. Raises KubeError."""
    classes = cache.classes.values()
    defaults = [view.name for view in classes if view.is_default]
    unfinished, problems = Counter[str | None](), defaultdict[str | None, Counter[str]](Counter)
    for record in cache.runs.values():
        unfinished[record.class_name] += not record.terminal
        if record.stalled and not record.terminal and record.ready_reason is not None:
            problems[record.class_name][record.ready_reason] += 1

    async def write(view: ClassView) -> None:
        status = class_status(
            view, defaults=defaults, unfinished=unfinished[view.name], problems=problems[view.name], now=clock()
        )
        if status == view.status:
            return
        try:
            written = await gateway.apply_status(
                CLASSES,
                None,
                view.name,
                uid=view.uid,
                resource_version=view.resource_version,
                status=status.wire(),
            )
        except (Conflict, NotFound):
            return  # changed or gone since; the next round sees it through the watch
        cache.put_class(written)

    await each(write(view) for view in classes)
