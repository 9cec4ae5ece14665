"""The user's own prompts as token ids: asked exactly as the rows of the dataset ask."""

from __future__ import annotations

from collections.abc import Sequence

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.formats import Completion
from lora_trainer.data.questions import SOME_ANSWER
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import Prompt


def tokenise_prompts(prompts: Sequence[str], tokenizer: RowTokenizer, *, max_length: int) -> tuple[Prompt, ...]:
    """Raises ConfigInvalid that names a prompt which leaves no room for an answer."""
    rows = [Completion(system=None, prompt=prompt, completion=SOME_ANSWER, plain_prompt=prompt) for prompt in prompts]
    asked = [tokenizer.asked(tokenizer.draft(row, TrainOn.ANSWERS)) for row in rows]
    for index, ids in enumerate(asked):
        if len(ids) >= max_length:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"evaluation.prompts[{index}] has {len(ids)} tokens, which leaves no room for an answer:"
                f" model.maxSeqLength is {max_length}.",
                "Shorten the prompt, or raise model.maxSeqLength.",
            )
    return tuple(Prompt(text=prompt, input_ids=tuple(ids)) for prompt, ids in zip(prompts, asked, strict=True))
