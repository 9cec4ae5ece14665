"""Finds a class for a run that does not fit its own."""

from __future__ import annotations

from lora_operator.planning.observed import ClassView


def larger_class(needed_gib: float, classes: tuple[ClassView, ...]) -> str:
    """A sentence with the smallest class whose accelerator offers that much memory."""
    offers = [
        (view.spec.accelerator.memory_gib, view.name)
        for view in classes
        if view.spec is not None and view.spec.accelerator.memory_gib is not None
    ]
    fitting = [offer for offer in offers if offer[0] >= needed_gib]
    if fitting:
        memory, name = min(fitting)
        return f"The smallest LoraFineTuneClass that fits is {name} ({memory:g} GiB)."
    if not offers:
        return ""
    memory, name = max(offers)
    return f"No LoraFineTuneClass fits; the largest is {name} ({memory:g} GiB)."
