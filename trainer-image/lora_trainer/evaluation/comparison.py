"""Runs base and adapter on the same inputs, and defines evaluation.json, which holds both results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from lora_trainer.contract.outcome import Evaluation, SetFigures
from lora_trainer.contract.wire import WireModel
from lora_trainer.prepared import Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

T = TypeVar("T")


class Sample(WireModel):
    """One held-out prompt with its reference, where it has one, and two answers."""

    prompt: str
    reference: str | None = None
    base: str
    adapter: str


class PromptAnswers(WireModel):
    """One of the user's own prompts with two answers."""

    system: str | None = None
    """The system message that it was asked with."""
    prompt: str
    base: str
    adapter: str


class EvaluationFile(WireModel):
    """evaluation.json of a published adapter."""

    figures: Evaluation
    probe: str
    """A held-out prompt as the model reads it, for verification."""
    dtype: str | None = None
    """Compute type of all that was measured; older files do not say it. A small change of the weights is rounded off in
    bfloat16 and counts in float32: figures of two types cannot be compared."""
    row_losses: Annotated[tuple[float, ...], Field(max_length=8)] = ()
    """Nats per scored token of the first held-out rows (DPO: of their chosen answers), for verification."""
    samples: Annotated[tuple[Sample, ...], Field(max_length=16)] = ()
    prompts: Annotated[tuple[PromptAnswers, ...], Field(max_length=16)] = ()

    def of_set(self, name: str) -> SetFigures:
        """The figures as those of a further set."""
        return SetFigures(name=name, **self.figures.model_dump(exclude={"sets"}))

    def with_sets(self, sets: tuple[SetFigures, ...]) -> EvaluationFile:
        """The same with the figures of the further sets."""
        return self.model_copy(update={"figures": self.figures.model_copy(update={"sets": sets})})


@contextmanager
def inference(model: PreTrainedModel | PeftModel, dtype: str) -> Iterator[None]:
    """No gradients, and the compute type that training used."""
    import torch

    with torch.inference_mode(), computed_in(model, dtype):
        yield


def computed_in(model: PreTrainedModel | PeftModel, dtype: str) -> AbstractContextManager[object]:
    """The model computes in this type. Autocast knows no float32, in which nothing is to be cast."""
    import torch

    return nullcontext() if dtype == "float32" else torch.autocast(model.device.type, getattr(torch, dtype))


def base_and_tuned(model: PeftModel, observe: Callable[[], T], *, dtype: str) -> tuple[T, T]:
    """What `observe` sees of the base model, and of the model with its adapter."""
    model.eval()
    with inference(model, dtype):
        tuned = observe()
        with model.disable_adapter():
            return observe(), tuned


def side_by_side(prompts: Sequence[Prompt], *, base: Sequence[str], tuned: Sequence[str]) -> tuple[PromptAnswers, ...]:
    """The user's own prompts with both answers."""
    return tuple(
        PromptAnswers(system=prompt.system, prompt=prompt.text, base=before, adapter=after)
        for prompt, before, after in zip(prompts, base, tuned, strict=True)
    )
