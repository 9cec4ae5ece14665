"""Turns rows into token ids and the mask of what counts in the loss. One code path for every method and accelerator.

Uses the tokenizer's own file through the `tokenizers` library; nothing here imports torch or transformers.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self, assert_never

from tokenizers import Encoding, Tokenizer

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import ChatTemplateValue
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.chat_template import NO_KWARGS, PROBE, ChatTemplate
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation
from lora_trainer.data.formats import Completion, Row, Text
from lora_trainer.data.template_language import Span
from lora_trainer.data.token_places import TokenPlaces
from lora_trainer.errors import TrainerError, first_sentence

DEFAULT_FILE = "chat_template.jinja"
WITH_TOOLS_FILE = "additional_chat_templates/tool_use.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    DEFAULT_FILE,
    WITH_TOOLS_FILE,
    "chat_template.json",
)
DEFAULT = "default"
WITH_TOOLS = "tool_use"
SHOWN_END = 12
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One row as it is trained on."""

    input_ids: list[int]
    completion_mask: list[int]
    """1 for each token that counts in the loss."""
    prompt_length: int
    """Leading tokens that ask for the last answer; half of a plain text."""
    prompt: str
    """What is asked, for people."""
    completion: str
    """The reference answer, for people."""

    @property
    def trained_tokens(self) -> int:
        """Tokens that count in the loss: the first one never does, as nothing stands before it to predict it from."""
        return sum(self.completion_mask[1:])

    @property
    def teaches(self) -> bool:
        """Whether any token counts in the loss."""
        return self.trained_tokens > 0

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Tokens."""
        return len(self.input_ids)

    @property
    def prompt_ids(self) -> list[int]:
        """Tokens that ask for the last answer."""
        return self.input_ids[: self.prompt_length]

    def contents(self) -> bytes:
        """What is trained on, as bytes."""
        return array("i", self.input_ids).tobytes() + bytes(self.completion_mask)

    def truncated(self, limit: int) -> Self:
        """The row with its end cut after `limit` tokens."""
        return replace(
            self,
            input_ids=self.input_ids[:limit],
            completion_mask=self.completion_mask[:limit],
            prompt_length=min(self.prompt_length, limit),
        )


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row as text, before it is tokenised."""

    text: str
    spans: tuple[Span, ...]
    prompt_end: int | None
    """Where the last answer begins; None for a plain text, which asks for nothing."""
    plain: bool
    """Whether it is plain text, to which begin and end tokens are added. Chat templates write them themselves."""
    prompt: str
    completion: str
    system: str | None = field(default=None, compare=False)
    """The system message that a chat begins with; what is trained of it is in the text."""


class RowTokenizer:
    """A model's tokenizer and chat template. Safe to use from one thread."""

    def __init__(
        self,
        *,
        backend: Tokenizer,
        special_tokens: Mapping[str, str],
        template: str | None,
        tool_template: str | None = None,
        kwargs: Mapping[str, ChatTemplateValue] = NO_KWARGS,
    ) -> None:
        """Raises ModelUnsupported without an end token, ChatTemplateInvalid for a template that cannot be used,
        ConfigInvalid for `kwargs` that no template reads.

        `tool_template` is the template for rows that have tools, where it is another.
        """
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._bos = backend.token_to_id(special_tokens["bos_token"]) if "bos_token" in special_tokens else None
        eos = backend.token_to_id(special_tokens["eos_token"]) if "eos_token" in special_tokens else None
        if eos is None:
            raise TrainerError(
                ExitCode.ModelUnsupported,
                "The model's tokenizer has no end token (eos_token in tokenizer_config.json).",
                "Use a model folder whose tokenizer_config.json sets one.",
            )
        self.template, self._tool_template = (
            ChatTemplate(source, special_tokens=special_tokens, kwargs=kwargs) if source else None
            for source in (template, tool_template)
        )
        _require_read(kwargs, [each for each in (self.template, self._tool_template) if each])
        self.eos_token_id = self._end_of_turn(self.template, eos) if self.template else eos
        """Token that ends an answer: what the chat template writes there, else the tokenizer's end token."""
        if self._tool_template:
            self._end_of_turn(self._tool_template, eos)
        usual, others = backend.id_to_token(self.eos_token_id), backend.get_added_tokens_decoder().values()
        self._ends = (*([usual] if usual else []), *(token.content for token in others))
        """Texts that end an answer, the usual one first."""
        self._text_end = eos
        pad = backend.token_to_id(special_tokens["pad_token"]) if "pad_token" in special_tokens else None
        self.pad_token_id = pad if pad is not None else eos

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def draft(self, row: Row, train_on: TrainOn) -> Draft:
        """The row as text. Raises RowError; ChatTemplateInvalid for a conversation without a template."""
        if isinstance(row, Completion) and row.as_chat and self.template:
            row = row.conversation()
        match row:
            case Text(text=text):
                return Draft(text=text, spans=((0, len(text)),), prompt_end=None, plain=True, prompt="", completion="")
            case Completion(plain_prompt=prompt, completion=completion):
                start = 0 if train_on == TrainOn.EVERYTHING else len(prompt)
                text = prompt + completion
                return Draft(
                    text=text,
                    spans=((start, len(text)),),
                    prompt_end=len(prompt),
                    plain=True,
                    prompt=row.prompt,
                    completion=completion,
                )
            case Conversation():
                template = self._tool_template if row.tools else None
                draft = _chat_draft(template or self._required_template(), row, train_on)
                if train_on != TrainOn.EVERYTHING:
                    self._check_ends(draft)
                return draft
            case _:
                assert_never(row)

    def encode(self, drafts: Sequence[Draft]) -> list[TokenRow]:
        """Token rows of drafts, in order."""
        plain = self._encodings(drafts, plain=True)
        chats = self._encodings(drafts, plain=False)
        return [self._row(draft, next(plain if draft.plain else chats)) for draft in drafts]

    def prompt(self, draft: Draft) -> tuple[str, list[int]]:
        """The prompt of the draft's last answer: its text, and the ids that the tokenizer makes of it."""
        text = draft.text[: draft.prompt_end]
        ids = self._backend.encode(text).ids
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            # The template writes the begin token, and so does the tokenizer.
            text = text.removeprefix(self._backend.id_to_token(self._bos) or "")
            ids = ids[1:]
        return text, ids

    def asked(self, draft: Draft) -> list[int]:
        """The ids that ask for the draft's last answer as rows of the dataset ask, whatever the answer is.

        A last space belongs to the first word of the answer, where the tokenizer joins them.
        """
        text = draft.text[: draft.prompt_end]
        if text.endswith(" "):
            (row,) = self.encode([draft])
            return row.prompt_ids
        (row,) = self.encode([replace(draft, text=text, spans=())])
        return row.input_ids[:-1] if draft.plain else row.input_ids

    def marked(self, ids: Sequence[int], mask: Sequence[int]) -> str:
        """A tokenised row as text for people, with what counts in the loss in ⟦ ⟧."""
        parts, start, shown = [], 0, ""
        for counts, run in groupby(mask):
            start += len(list(run))
            # Decoded from the beginning: some decoders strip the space before the first word that they see.
            until = self._backend.decode(list(ids[:start]), skip_special_tokens=False)
            part, shown = until[len(shown) :], until
            parts.append(f"⟦{part}⟧" if counts else part)
        return "".join(parts)

    def _encodings(self, drafts: Sequence[Draft], *, plain: bool):
        texts = [draft.text for draft in drafts if draft.plain is plain]
        return iter(self._backend.encode_batch(texts, add_special_tokens=plain))

    def _row(self, draft: Draft, encoding: Encoding) -> TokenRow:
        ids, offsets = encoding.ids, encoding.offsets
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            # The row's own text begins with the token that the tokenizer or template adds anyway.
            ids, offsets = ids[1:], offsets[1:]
        places = TokenPlaces(text=draft.text, offsets=offsets)
        mask = [0] * len(ids)
        for start, end in draft.spans:
            first, last = places.before(start) if start else 0, places.until(end)
            mask[first:last] = [1] * (last - first)
        if draft.plain and (not ids or ids[-1] != self._text_end):
            ids.append(self._text_end)
            mask.append(1)
        prompt, completion = draft.prompt, draft.completion
        if draft.prompt_end is not None:
            prompt_length = places.before(draft.prompt_end) if draft.prompt_end else 0
        else:
            prompt_length = max(1, len(ids) // 2)
            prompt, completion = (self._backend.decode(part) for part in (ids[:prompt_length], ids[prompt_length:]))
        return TokenRow(
            input_ids=ids,
            completion_mask=mask,
            prompt_length=prompt_length,
            prompt=prompt,
            completion=completion,
        )

    def _required_template(self) -> ChatTemplate:
        if not self.template:
            raise TrainerError(
                ExitCode.ChatTemplateInvalid,
                "The rows are conversations, but the model's tokenizer has no chat template.",
                "Set dataset.chatTemplate, or use the model's instruct version.",
            )
        return self.template

    def _check_ends(self, draft: Draft) -> None:
        """Raise RowError where an answer that is trained on does not end with an end token.

        The template was tried on one plain answer; it may treat others differently.
        """
        for start, end in draft.spans:
            answer = draft.text[start:end]
            if not answer.endswith(self._ends):
                raise RowError(
                    f"the chat template ends an answer with {answer[-SHOWN_END:]!r} instead of an end token,"
                    " so the model would not learn to stop"
                )

    def _end_of_turn(self, template: ChatTemplate, eos: int) -> int:
        """The token that ends an answer in the template. Raises ChatTemplateInvalid where none does."""
        if unknown := sorted(token for token in template.markup if self._backend.token_to_id(token) is None):
            raise TrainerError(
                ExitCode.ChatTemplateInvalid,
                f"The chat template writes {', '.join(unknown)}, which the model's tokenizer does not know.",
                "Use the template that belongs to this model, or a model that knows these tokens.",
            )
        (probe,) = self.encode([_chat_draft(template, PROBE, TrainOn.ANSWERS)])
        last = max(index for index, trained in enumerate(probe.completion_mask) if trained)
        end = probe.input_ids[last]
        if end != eos and end not in self._backend.get_added_tokens_decoder():
            raise TrainerError(
                ExitCode.ChatTemplateInvalid,
                f"The chat template ends an answer with {self._backend.decode([end])!r} instead of an end token:"
                " the model would never learn to stop.",
                "Write {{ eos_token }} after the assistant's content in dataset.chatTemplate.",
            )
        return end


def _chat_draft(template: ChatTemplate, row: Conversation, train_on: TrainOn) -> Draft:
    rendered = template.render(row, train_on=train_on)
    last = max(index for index, turn in enumerate(row.turns) if turn.role == "assistant")
    questions = [turn.content for turn in row.turns[:last] if turn.role == "user"]
    return Draft(
        text=rendered.text,
        spans=rendered.answers,
        prompt_end=rendered.prompt_end,
        plain=False,
        prompt=questions[-1] if questions else "",
        completion=row.turns[last].content,
        system=row.system,
    )


def _require_read(kwargs: Mapping[str, ChatTemplateValue], templates: Sequence[ChatTemplate]) -> None:
    """Raise ConfigInvalid where no template reads one of the user's variables."""
    unread = [name for name in kwargs if not any(template.reads(name) for template in templates)]
    if not unread:
        return
    if not templates:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"No chat template renders the rows, so nothing reads {', '.join(unread)} of dataset.chatTemplateKwargs.",
            "Remove dataset.chatTemplateKwargs, or set dataset.chatTemplate for rows that are conversations.",
        )
    known = sorted(frozenset().union(*(template.settings for template in templates)))
    raise TrainerError(
        ExitCode.ConfigInvalid,
        f"The chat template never reads {', '.join(unread)} of dataset.chatTemplateKwargs; it reads"
        f" {', '.join(known) or 'no variable of yours'}.",
        "Correct the name, or remove it.",
    )


def load_tokenizer(
    folder: Path,
    *,
    chat_template: str | None,
    chats: bool,
    kwargs: Mapping[str, ChatTemplateValue] = NO_KWARGS,
) -> RowTokenizer:
    """The tokenizer of a model folder, with the user's chat template or else its own, and the user's variables of it.

    Without `chats` no template is loaded: rows of plain text need none. Raises ModelUnsupported, and what RowTokenizer
    raises.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise TrainerError(
            ExitCode.ModelUnsupported,
            "The model folder has no tokenizer.json.",
            "Save it with a fast tokenizer: AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
        )
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        reason = first_sentence(str(error))
        raise TrainerError(
            ExitCode.ModelUnsupported, f"The model's tokenizer.json cannot be read: {reason}.", "Upload it again."
        ) from None
    settings = _json_file(folder / "special_tokens_map.json") | _json_file(folder / "tokenizer_config.json")
    special = {name: token for name in SPECIAL_TOKENS if (token := _token_text(settings.get(name)))}
    templates = ({DEFAULT: chat_template} if chat_template else _own_templates(folder, settings)) if chats else {}
    return RowTokenizer(
        backend=backend,
        special_tokens=special,
        template=templates.get(DEFAULT),
        tool_template=templates.get(WITH_TOOLS),
        kwargs=kwargs,
    )


def _own_templates(folder: Path, settings: Mapping[str, Any]) -> Mapping[str, str]:
    """The tokenizer's own templates by their names, as transformers reads and chooses them."""
    own = _json_file(folder / "chat_template.json").get("chat_template") or settings.get("chat_template") or {}
    if isinstance(own, str):
        own = {DEFAULT: own}
    elif isinstance(own, list):
        own = {entry["name"]: entry["template"] for entry in own}
    files = {DEFAULT: folder / DEFAULT_FILE, WITH_TOOLS: folder / WITH_TOOLS_FILE}
    return own | {name: path.read_text() for name, path in files.items() if path.exists()}


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, Mapping) else token


def _json_file(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}
