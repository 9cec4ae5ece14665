"""Packed rows as TRL's collator takes them: every token once, no answer without its row's own prompt."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassFieldValidationError
from lora_trainer.errors import TrainerError
from lora_trainer.methods.sft import packed_rows
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import NOT_KEPT_APART, pack
from lora_trainer.prepared import NO_LABEL
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

LENGTH = 64
ROWS = [[100 * row + token for token in range(8 + row % 20)] for row in range(1, 60)]
PROMPT = 5


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder: Path = tmp_path_factory.mktemp("rows")
    masks = [[0] * PROMPT + [1] * (len(row) - PROMPT) for row in ROWS]
    Dataset.from_dict({"input_ids": ROWS, "completion_mask": masks}).to_parquet(folder / "rows.parquet")
    rows = Dataset.from_parquet(str(folder / "rows.parquet"), cache_dir=str(folder / "cache"))
    assert isinstance(rows, Dataset)
    return packed_rows(rows, length=LENGTH, seed=3, file=folder / "trainer/packed.arrow")


def test_sequences_are_on_disk(packed: Dataset) -> None:
    assert [Path(file["filename"]).name for file in packed.cache_files] == ["packed.arrow"]


def test_sequences_are_those_that_steps_were_counted_for(packed: Dataset) -> None:
    sequences = pack([len(row) for row in ROWS], length=LENGTH, seed=3)
    assert packed["seq_lengths"][:] == [[len(ROWS[row]) for row in sequence] for sequence in sequences]
    assert packed["input_ids"][:] == [[token for row in sequence for token in ROWS[row]] for sequence in sequences]


def test_answers_only_are_trained(packed: Dataset) -> None:
    for sequence in packed:
        assert isinstance(sequence, dict)
        rows = [token % 100 for token in sequence["input_ids"]]
        expected = [NO_LABEL if row < PROMPT else token for row, token in zip(rows, sequence["input_ids"], strict=True)]
        assert sequence["labels"] == expected


def test_positions_begin_anew_with_every_row(packed: Dataset) -> None:
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True, return_position_ids=True)
    batch = collate([packed[0], packed[1]])
    assert batch["position_ids"][0].tolist() == [token % 100 for token in batch["input_ids"][0].tolist()]


STATE = re.compile(r"conv_state|ssm_state|recurrent_state|linear_attention")


def decoders() -> Iterator[tuple[str, dict[str, Any], str]]:
    """The type, the default config and the code of each decoder in transformers that prepare can size."""
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[name]()
            values = config.to_dict()
            model_shape(values)
        except (TrainerError, ImportError, StrictDataclassFieldValidationError):
            continue
        folder = Path(inspect.getfile(type(config))).parent
        yield name, values, "".join(file.read_text() for file in folder.glob("modeling_*.py"))


def test_models_that_pass_a_state_from_token_to_token_are_known() -> None:
    told = {name: (model_shape(values).recurrent, bool(STATE.search(code))) for name, values, code in decoders()}
    assert len(told) > 80
    assert {name: both for name, both in told.items() if both[0] != both[1]} == {}


def test_models_that_unsloth_does_not_pack_are_known() -> None:
    source = Path(str(distribution("unsloth").locate_file("unsloth/trainer.py"))).read_text()
    (listed,) = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PADDING_FREE_BLOCKLIST"
    ]
    assert ast.literal_eval(listed) == NOT_KEPT_APART
