"""The user's own prompts as token ids: asked exactly as the rows of the dataset ask."""

from __future__ import annotations

from collections.abc import Sequence

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.formats import Completion, Row, exchange
from lora_trainer.data.questions import SOME_ANSWER
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import Prompt

SYSTEM_PROMPT = "evaluation.systemPrompt"


def system_prompt(spec: EvaluationSpec, *, of_rows: str | None) -> str | None:
    """The system message that prompts are asked with: the user's, or else that of all rows. None where there is none,
    or where the user's is empty."""
    return of_rows if spec.system_prompt is None else spec.system_prompt or None


def tokenise_prompts(
    prompts: Sequence[str], tokenizer: RowTokenizer, *, system: str | None, max_length: int
) -> tuple[Prompt, ...]:
    """The prompts after the system message, if there is one.

    Raises ConfigInvalid that names a prompt which cannot be rendered or leaves no room for an answer, and for a system
    message without a chat template, which alone could show it.
    """
    if system is not None and prompts and tokenizer.template is None:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"{SYSTEM_PROMPT} cannot be shown: the rows are plain text, without a chat template.",
            f"Remove {SYSTEM_PROMPT}, and write into evaluation.prompts all that the model is to read.",
        )
    return tuple(
        Prompt(text=prompt, system=system, input_ids=_asked(prompt, system, index, tokenizer, max_length=max_length))
        for index, prompt in enumerate(prompts)
    )


def _asked(prompt: str, system: str | None, index: int, tokenizer: RowTokenizer, *, max_length: int) -> tuple[int, ...]:
    place = f"evaluation.prompts[{index}]"
    try:
        ids = tokenizer.asked(tokenizer.draft(_row(prompt, system, place), TrainOn.ANSWERS))
    except RowError as error:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"{place} cannot be asked as the rows are: {error}.",
            "Change the prompt or its system message (evaluation.systemPrompt; empty for none).",
        ) from None
    if len(ids) >= max_length:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"{place} has {len(ids)} tokens, which leaves no room for an answer: model.maxSeqLength is {max_length}.",
            "Shorten the prompt, or raise model.maxSeqLength.",
        )
    return tuple(ids)


def _row(prompt: str, system: str | None, place: str) -> Row:
    if system is None:
        return Completion(
            system=None, prompt=prompt, completion=SOME_ANSWER, plain_prompt=prompt, places=(place, place)
        )
    leading = Turn(role="system", content=system, extra={}, place=SYSTEM_PROMPT)
    return Conversation(turns=(leading, *exchange(prompt, SOME_ANSWER, (place, place))))
