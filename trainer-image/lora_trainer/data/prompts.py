"""The user's own prompts as token ids: asked exactly as the rows of the dataset ask."""

from __future__ import annotations

from collections.abc import Sequence

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.formats import Completion
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import Prompt

SOME_ANSWER = "\nan answer"
"""A prompt is tokenised as the beginning of a row, and a row has an answer."""


def tokenise_prompts(prompts: Sequence[str], tokenizer: RowTokenizer, *, max_length: int) -> tuple[Prompt, ...]:
    """Raises ConfigInvalid that names a prompt which leaves no room for an answer."""
    rows = [Completion(system=None, prompt=prompt, completion=SOME_ANSWER, plain_prompt=prompt) for prompt in prompts]
    encoded = tokenizer.encode([tokenizer.draft(row, TrainOn.ANSWERS) for row in rows])
    for index, row in enumerate(encoded):
        if row.prompt_length >= max_length:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"evaluation.prompts[{index}] has {row.prompt_length} tokens, which leaves no room for an answer:"
                f" model.maxSeqLength is {max_length}.",
                "Shorten the prompt, or raise model.maxSeqLength.",
            )
    return tuple(
        Prompt(text=prompt, input_ids=tuple(row.input_ids[: row.prompt_length]))
        for prompt, row in zip(prompts, encoded, strict=True)
    )
