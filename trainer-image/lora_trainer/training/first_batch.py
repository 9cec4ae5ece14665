"""Checks the first micro-batch as the model receives it: its rows are the prepared ones, and packed rows are apart.

Batches pass through transformers, TRL, Unsloth and their collators, each of which may pad, cut, pack or mask. What
arrives at the model is what is trained, so it is compared there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import Method
from lora_trainer.errors import TrainerError
from lora_trainer.packing import influence_each_other
from lora_trainer.prepared import NO_LABEL, read_batches

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

LARGEST_INFLUENCE = 0.01
"""Share of a row's hidden states that may change with the row before it in a sequence. Rows that are apart change by
0 in dense models; experts are computed for as many tokens as chose them, which changes the rounding."""

log = logging.getLogger(__name__)

Kwargs = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FedRow:
    """A row within a micro-batch."""

    sequence: int
    """Index of its sequence."""
    start: int
    """Index of its first token in the sequence."""
    ids: np.ndarray
    """Token ids, int32."""
    trained: np.ndarray | None
    """1 for each token that counts in the loss, int8; None where the model is not told."""

    @property
    def places(self) -> tuple[int, slice]:
        """Where it stands among (sequences, tokens)."""
        return self.sequence, slice(self.start, self.start + len(self.ids))


def check_first_batch(model: PreTrainedModel | PeftModel, rows: Path, *, method: Method) -> None:
    """Check the first micro-batch of `model`, once it comes, against the prepared set's TRAIN_ROWS in `rows`.

    The model then raises TrainerError: InternalError for a row that was not prepared so, ConfigInvalid for packed rows
    that influence each other. Method GRPO trains what it generates: nothing is checked.
    """
    if method is Method.GRPO:
        return

    def compare(model: PreTrainedModel | PeftModel, _: tuple, kwargs: dict[str, Any]) -> None:
        hook.remove()
        fed = fed_rows(kwargs)
        require_prepared(fed, rows, method=method)
        first, later = by_place(fed)
        if later:
            _compare_next_pass(model, _changed_hidden_states(model, kwargs, first), later)
        log.info("First batch as prepared", extra={"fields": {"rows": len(fed)}})

    hook = model.register_forward_pre_hook(compare, with_kwargs=True)


def _compare_next_pass(model: PreTrainedModel | PeftModel, changed: torch.Tensor, rows: list[FedRow]) -> None:
    """Compare the hidden states of `rows` in the next forward pass with those computed with other rows before them."""

    def compare(_: Any, __: tuple, output: Any) -> None:
        hook.remove()
        influence = require_apart(_last_hidden_state(output), changed, rows)
        log.info("Packed rows are apart", extra={"fields": {"influence": influence}})

    hook = _decoder(model).register_forward_hook(compare)


def fed_rows(kwargs: Kwargs) -> list[FedRow]:
    """The rows in the arguments of a forward pass: input_ids and, unless the trainer computes the loss itself, labels
    (sequences, tokens), and what tells the rows apart. Raises InternalError where a label is another token than its
    input."""
    ids = _numpy(kwargs["input_ids"]).astype(np.int32)
    trained = None
    if (labels := kwargs.get("labels")) is not None:
        labels = _numpy(labels)
        trained = labels != NO_LABEL
        if not (labels == ids)[trained].all():
            raise _otherwise("a label is another token than the one that it stands for")
    return [
        FedRow(
            sequence=sequence,
            start=start,
            ids=ids[sequence, start:end],
            trained=None if trained is None else trained[sequence, start:end].astype(np.int8),
        )
        for sequence, start, end in _borders(kwargs, sequences=len(ids), tokens=ids.shape[1])
    ]


def _borders(kwargs: Kwargs, *, sequences: int, tokens: int) -> Iterator[tuple[int, int, int]]:
    """(sequence, start, end) of every row."""
    if (mask := kwargs.get("attention_mask")) is not None:
        for sequence, shown in enumerate(_numpy(mask)):
            (places,) = shown.nonzero()
            yield sequence, int(places[0]), int(places[-1]) + 1
    elif (lengths := kwargs.get("packed_seq_lengths")) is not None:
        ends = np.cumsum(_numpy(lengths))
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            yield 0, int(start), int(end)
    else:
        yield from ((sequence, 0, tokens) for sequence in range(sequences))


def by_place(fed: list[FedRow]) -> tuple[list[FedRow], list[FedRow]]:
    """The first row of each sequence, and the others."""
    first = {row.sequence: row for row in reversed(fed)}
    return [*first.values()], [row for row in fed if row is not first[row.sequence]]


def require_prepared(fed: list[FedRow], path: Path, *, method: Method) -> None:
    """Raise InternalError where a row is not among those in `path`, or trains other tokens."""
    wanted = {_key(row.ids, row.trained) for row in fed}
    lengths, told = {len(row.ids) for row in fed}, fed[0].trained is not None
    for ids, trained in _prepared_rows(path, method=method):
        if len(ids) in lengths:
            wanted.discard(_key(ids, trained if told else None))
            if not wanted:
                return
    raise _otherwise(f"{len(wanted)} of its {len(fed)} rows have tokens, or trained tokens, that were not prepared")


def _key(ids: np.ndarray, trained: np.ndarray | None) -> bytes:
    """The row as one value. Its first token is never predicted."""
    return ids.tobytes() + (b"" if trained is None else trained[1:].tobytes())


def _prepared_rows(path: Path, *, method: Method) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids, and 1 for each trained token, of every sequence that is trained on."""
    for batch in read_batches(path):
        match method:
            case Method.DPO:
                prompts, *answers = (_lists(batch, name) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
                for prompt, *both in zip(prompts, *answers, strict=True):
                    for answer in both:
                        trained = np.repeat(np.array([0, 1], np.int8), [len(prompt), len(answer)])
                        yield np.concatenate([prompt, answer]), trained
            case _:
                yield from zip(_lists(batch, "input_ids"), _lists(batch, "completion_mask"), strict=True)


def _lists(batch: pa.RecordBatch, name: str) -> list[np.ndarray]:
    """The lists of a column, without copying them."""
    column = batch.column(name)
    return np.split(column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())[:-1])


def _changed_hidden_states(model: PreTrainedModel | PeftModel, kwargs: Kwargs, rows: list[FedRow]) -> torch.Tensor:
    """Hidden states (sequences, tokens, hidden) of a pass with the tokens of `rows` reversed.

    The pass has gradients, as without them other code would be compiled, and the same dropout as the one that follows.
    """
    import torch

    ids = kwargs["input_ids"].clone()
    for row in rows:
        ids[row.places] = ids[row.places].flip(0)
    seen: list[torch.Tensor] = []
    hook = _decoder(model).register_forward_hook(lambda _, __, output: seen.append(_last_hidden_state(output)))
    try:
        # What is drawn within is drawn again afterwards.
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            model(**{**kwargs, "input_ids": ids})
    finally:
        hook.remove()
    return seen[0]


def require_apart(hidden: torch.Tensor, changed: torch.Tensor, rows: list[FedRow]) -> float:
    """The largest share of hidden states (sequences, tokens, hidden) of one of `rows` that differs from those that were
    computed with other rows before them. Raises ConfigInvalid where it is too large."""
    influence = max(_distance(hidden[row.places], changed[row.places]) for row in rows)
    if not influence <= LARGEST_INFLUENCE:
        raise influence_each_other(f"with another first row, the next ones change by {influence:.1%}")
    return influence


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Length of the difference, as a share of the length of the first."""
    one, other = one.float(), other.float()
    return ((one - other).norm() / one.norm()).item()


def _decoder(model: PreTrainedModel | PeftModel) -> torch.nn.Module:
    """The part of the model whose output is hidden states."""
    decoder = model.get_decoder()
    return getattr(decoder, "model", decoder)  # Llama 4 gives itself


def _last_hidden_state(output: Any) -> torch.Tensor:
    return output[0].detach()


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _otherwise(what: str) -> TrainerError:
    return TrainerError(
        ExitCode.InternalError,
        f"The first batch is not what was prepared: {what}.",
        "Report it with the pod's log; nothing was trained.",
    )
