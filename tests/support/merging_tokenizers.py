"""Small tokenizers that join characters as those of real models do, and so make tokens across borders of texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.tiny_model import CHATML_TOKENS

CORPUS = (
    "Review: I loved it.\nSentiment: positive\n\nReview: I hated it.\nSentiment: negative\n\n",
    "A question has an answer.\n",
    "User: who keeps the keys?\nAssistant: the porter.\n>>> Assistant: the porter keeps them.  \n",
)
VOCABULARY = 420


@cache
def merging_tokenizers() -> Mapping[str, Tokenizer]:
    """Tokenizers by what is special about them."""
    return {
        "byte level": _byte_level(),
        "offsets without spaces": _byte_level(processor=processors.ByteLevel(trim_offsets=True)),
        "composes characters": _byte_level(normalizer=normalizers.NFC()),
        "words are not split": _byte_level(use_regex=False),
        "begins with a token": _byte_level(
            processor=processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
        ),
        "spaces as letters": _metaspace(),
    }


def _byte_level(
    *,
    normalizer: normalizers.Normalizer | None = None,
    processor: processors.PostProcessor | None = None,
    use_regex: bool = True,
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    if processor:
        tokenizer.post_processor = processor
    return _trained(tokenizer, alphabet=pre_tokenizers.ByteLevel.alphabet())


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<|endoftext|>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _trained(tokenizer, alphabet=[], tokens=[f"<0x{byte:02X}>" for byte in range(256)])


def _trained(tokenizer: Tokenizer, *, alphabet: list[str], tokens: list[str] | None = None) -> Tokenizer:
    special = [AddedToken(token, special=True, normalized=False) for token in CHATML_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*special, *(tokens or [])],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer
