"""The first micro-batch as the model receives it: what is compared with the prepared rows, and rows that are packed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import Method
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import NO_LABEL, SCHEMAS, TRAIN_ROWS, write_rows
from lora_trainer.training.first_batch import check_first_batch
from transformers import (
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

PROMPT = 4
ROWS = [[100 * row + token for token in range(8 + row)] for row in range(1, 5)]
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 600, "head_dim": 8}

Batch = dict[str, Any]


def masked(row: list[int]) -> list[int]:
    return [0] * PROMPT + [1] * (len(row) - PROMPT)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    schema = SCHEMAS[Method.SFT].trained
    columns = {"input_ids": ROWS, "completion_mask": [masked(row) for row in ROWS]}
    write_rows(tmp_path / TRAIN_ROWS, [pa.RecordBatch.from_pydict(columns, schema=schema)], schema=schema)
    return tmp_path / TRAIN_ROWS


@pytest.fixture
def llama() -> PreTrainedModel:
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).train()


def labels_of(row: list[int]) -> list[int]:
    return [token if trained else NO_LABEL for token, trained in zip(row, masked(row), strict=True)]


def padded() -> Batch:
    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    return collate([{"input_ids": row, "labels": labels_of(row)} for row in ROWS])


def packed() -> Batch:
    """All rows in one sequence, with the lengths that Unsloth's collator adds."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True, return_position_ids=True)
    ids, labels = ([*chain.from_iterable(rows)] for rows in (ROWS, map(labels_of, ROWS)))
    lengths = [len(row) for row in ROWS]
    batch = collate([{"input_ids": ids, "labels": labels, "seq_lengths": lengths}])
    return {**batch, "packed_seq_lengths": torch.tensor(lengths), "use_cache": False}


def refused(model: PreTrainedModel, batch: Batch, rows: Path) -> TrainerError:
    check_first_batch(model, rows, method=Method.SFT)
    with pytest.raises(TrainerError) as refusal:
        model(**batch)
    return refusal.value


@pytest.mark.parametrize("batch", [padded(), packed()], ids=["padded", "packed"])
def test_what_was_prepared_passes_and_is_looked_at_once(llama: PreTrainedModel, batch: Batch, rows: Path) -> None:
    before = torch.get_rng_state()
    check_first_batch(llama, rows, method=Method.SFT)
    checked = llama(**batch).loss
    assert torch.equal(torch.get_rng_state(), before), "what is drawn in training is not changed"
    assert torch.equal(checked, llama(**batch).loss)
    assert torch.isfinite(llama(**{**batch, "input_ids": batch["input_ids"] * 0}).loss), (
        "the second batch is not checked"
    )


def cut(batch: Batch) -> Batch:
    return {name: values[:, :-1] for name, values in batch.items()}


def with_trained_prompt(batch: Batch) -> Batch:
    labels = batch["labels"].clone()
    labels[0, PROMPT - 1] = batch["input_ids"][0, PROMPT - 1]
    return {**batch, "labels": labels}


def without_last_label(batch: Batch) -> Batch:
    labels = batch["labels"].clone()
    labels[-1, labels[-1].nonzero()[-1]] = NO_LABEL
    return {**batch, "labels": labels}


def with_other_label(batch: Batch) -> Batch:
    return {**batch, "labels": batch["labels"].masked_fill(batch["labels"] == 107, 108)}


def with_other_token(batch: Batch) -> Batch:
    changed = {name: batch[name].masked_fill(batch[name] == 105, 104) for name in ("input_ids", "labels")}
    return batch | changed


@pytest.mark.parametrize(
    "change",
    [cut, with_trained_prompt, without_last_label, with_other_label, with_other_token],
    ids=lambda it: it.__name__,
)
def test_another_row_is_refused(llama: PreTrainedModel, change: Callable[[Batch], Batch], rows: Path) -> None:
    error = refused(llama, change(padded()), rows)
    assert error.code is ExitCode.InternalError
    assert "The first batch is not what was prepared" in error.message


@pytest.mark.parametrize(
    "model_of",
    [lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), lambda: Qwen3NextForCausalLM(recurrent())],
    ids=["without positions", "a state passes from row to row"],
)
def test_packed_rows_that_influence_each_other_are_refused(model_of: Callable[[], PreTrainedModel], rows: Path) -> None:
    torch.manual_seed(3)
    batch = packed()
    if not hasattr(model := model_of().train(), "linear"):
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
    error = refused(model, batch, rows)
    assert error.code is ExitCode.ConfigInvalid
    assert "Packed rows influence each other" in error.message


def recurrent() -> Qwen3NextConfig:
    return Qwen3NextConfig(
        **SIZES,
        layer_types=["linear_attention", "full_attention"],
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )


def test_a_model_that_gives_itself_as_its_decoder_is_checked(rows: Path) -> None:
    torch.manual_seed(3)
    model = Llama4ForCausalLM(Llama4TextConfig(**SIZES, num_local_experts=2, intermediate_size_mlp=64)).train()
    assert "Packed rows influence" in refused(model, packed() | {"position_ids": None}, rows).message
    check_first_batch(model, rows, method=Method.SFT)
    assert torch.isfinite(model(**packed()).loss)


def test_dropout_is_no_influence(rows: Path) -> None:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.5)).train()
    check_first_batch(model, rows, method=Method.SFT)
    assert torch.isfinite(model(**packed()).loss)


def test_rows_whose_loss_the_trainer_computes_are_compared_by_their_tokens(llama: PreTrainedModel, rows: Path) -> None:
    batch = padded()
    del batch["labels"]
    check_first_batch(llama, rows, method=Method.SFT)
    assert torch.isfinite(llama(**batch).logits).all()
    assert (
        "1 of its 4 rows"
        in refused(
            llama, {**batch, "input_ids": batch["input_ids"].masked_fill(batch["input_ids"] == 105, 104)}, rows
        ).message
    )


def test_pairs_are_compared_with_prompt_and_answer(llama: PreTrainedModel, tmp_path: Path) -> None:
    schema = SCHEMAS[Method.DPO].trained
    pairs = [{"prompt_ids": row[:PROMPT], "chosen_ids": row[PROMPT:], "rejected_ids": row[:0:-1]} for row in ROWS]
    write_rows(tmp_path / TRAIN_ROWS, [pa.RecordBatch.from_pylist(pairs, schema=schema)], schema=schema)
    batch = DataCollatorForPreference(pad_token_id=0)(pairs)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, NO_LABEL)
    check_first_batch(llama, tmp_path / TRAIN_ROWS, method=Method.DPO)
    assert torch.isfinite(llama(**batch, labels=labels).loss)
    check_first_batch(llama, tmp_path / TRAIN_ROWS, method=Method.DPO)
    with pytest.raises(TrainerError, match="2 of its 8 rows"):
        llama(**{**batch, "labels": labels, "input_ids": batch["input_ids"].masked_fill(batch["input_ids"] == 100, 99)})
