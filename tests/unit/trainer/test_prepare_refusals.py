"""prepare on local stores: each kind of bad input's ending."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lora_trainer import storage
from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.prepare import prepare
from lora_trainer.storage import open_bucket

from tests.support.prepare_world import CHATS, UNKNOWN_TOKENS, Rows, World, conversation, with_template
from tests.support.runs import run_file
from tests.support.stub_server import Answer, Request, stub_server
from tests.support.tiny_model import CHATML_TOKENS, CONFIG, tiny_tokenizer, write_tiny_model


def rows(contents: Rows | str) -> Callable[[World], None]:
    return lambda world: world.write("data/train.jsonl", contents)


def model(**options: Any) -> Callable[[World], object]:
    def change(world: World) -> None:
        folder = world.root / "models/smollm2"
        (folder / "chat_template.jinja").unlink()
        write_tiny_model(folder, **options)

    return change


def larger_tokenizer(world: World) -> None:
    more = (f"<|more_{number}|>" for number in range(47))
    tiny_tokenizer(special=(*CHATML_TOKENS, *more)).save(str(world.root / "models/smollm2/tokenizer.json"))


def nothing(_: World) -> None:
    """The run file alone is what is wrong."""


LONG = [{"text": "a" * 600}, {"text": "a" * 900}]
CUT_AWAY = [{"prompt": "q" * 40 + str(number), "completion": "a"} for number in range(5)]


@pytest.mark.parametrize(
    ("change", "blocks", "code", "words"),
    [
        (nothing, {"dataset": {"uri": "s3://team-a/no.jsonl"}}, ExitCode.DatasetNotFound, "no dataset at s3://team-a/no"),
        (nothing, {"dataset": {"claimRef": {"name": "claim", "path": "no"}}}, ExitCode.DatasetNotFound, "pvc://claim/no"),
        (rows(""), {}, ExitCode.DatasetInvalid, "has no rows"),
        (rows('{"text": "a"}\n{oops\n'), {}, ExitCode.DatasetInvalid, "train.jsonl:2: not JSON"),
        (rows([{"question": "q", "sql": "s"}]), {}, ExitCode.DatasetInvalid, "found question, sql"),
        (rows([*CHATS[:3], {"text": "t"}]), {}, ExitCode.DatasetInvalid, "train.jsonl:4: the column messages is"),
        (rows(LONG), {}, ExitCode.DatasetInvalid, "longer than model.maxSeqLength 512; the shortest"),
        (rows([*CHATS, conversation(7 * "long " * 200)]), {"dataset": {"overlength": "Fail", "maxBadFraction": 0.5}},
         ExitCode.DatasetInvalid, "1 of 101 rows are longer than model.maxSeqLength 512: train.jsonl:101: has"),
        (rows([{"messages": 1}] * 5), {"dataset": {"maxBadFraction": 1}}, ExitCode.DatasetInvalid,
         "No row of s3://team-a/data/train.jsonl is left: 5 of 5 cannot be used: train.jsonl:1: messages is a number"),
        (rows([conversation(1) | {"messages": [{"role": "assistant", "content": ""}]}]), {}, ExitCode.DatasetInvalid,
         "no row of s3://team-a/data/train.jsonl has a token that counts"),
        (rows(CUT_AWAY), {"model": {"maxSeqLength": 32}, "dataset": {"overlength": "Truncate"}},
         ExitCode.DatasetInvalid,
         "NothingToTrain: 5 of 5"),
        (rows(CHATS[:1]), {}, ExitCode.DatasetInvalid, "No row can be held out"),
        (rows([CHATS[0]] * 5), {}, ExitCode.DatasetInvalid, "5 rows, 4 of them repeated"),
        (nothing, {"evaluation": {"dataset": {"uri": "s3://team-a/data/train.jsonl"}}}, ExitCode.DatasetInvalid,
         "Every row of the dataset is also in the evaluation set"),
        (nothing, {"evaluation": {"dataset": {"uri": "s3://team-a/no.jsonl"}}}, ExitCode.DatasetNotFound, "s3://team-a/no.jsonl"),
        (model(template=None), {}, ExitCode.ChatTemplateInvalid, "has no chat template"),
        (model(template=UNKNOWN_TOKENS), {}, ExitCode.ChatTemplateInvalid, "writes <|start_header_id|>, which"),
        (nothing, with_template(jinja=UNKNOWN_TOKENS), ExitCode.ChatTemplateInvalid, "<|start_header_id|>"),
        (nothing, with_template(jinja="{% if %}"), ExitCode.ChatTemplateInvalid, "does not compile"),
        (nothing, with_template(name="llama-3"), ExitCode.ChatTemplateInvalid, "<|start_header_id|>"),
        (nothing, with_template(name="zephyr"), ExitCode.ConfigInvalid, "no chat template 'zephyr'"),
        (nothing, {"model": {"name": "s3://team-a/models/none"}}, ExitCode.ModelNotFound, "s3://team-a/models/none"),
        (nothing, {"model": {"name": "s3://team-a/data"}}, ExitCode.ModelUnsupported, "no config.json"),
        (model(config=CONFIG | {"hidden_size": None}), {}, ExitCode.ModelUnsupported, "no hidden_size"),
        (model(config=CONFIG | {"max_position_embeddings": 256}), {}, ExitCode.ConfigInvalid,
         "model.maxSeqLength is 512, but s3://team-a/models/smollm2 supports 256 positions"),
        (nothing, {"lora": {"targetModules": ["q_proj", "x_proj"]}}, ExitCode.ConfigInvalid, "names x_proj, which"),
        (larger_tokenizer, {}, ExitCode.ModelUnsupported, "has 306 tokens but its weights only 300"),
        (nothing, {"accelerator": {"kind": "GPU", "memoryGiB": 1}}, ExitCode.DoesNotFit, "the class offers 1 GiB"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_a_remedy(
    world: World, change: Callable[[World], object], blocks: dict[str, Any], code: ExitCode, words: str
) -> None:
    change(world)
    with pytest.raises(TrainerError) as caught:
        world.prepare(**blocks)
    assert caught.value.code is code
    assert words.lower() in caught.value.message.lower()
    assert caught.value.remedy
    assert not (world.root / "work").exists() or not any((world.root / "work").rglob("manifest.json"))


def test_a_model_that_is_quantised_already_cannot_be_merged(world: World) -> None:
    model(config=CONFIG | {"quantization_config": {"quant_method": "bitsandbytes"}})(world)
    with pytest.raises(
        TrainerError, match=r"output\.exports needs 16-bit weights for gguf/q8_0, .* already quantised"
    ) as ended:
        world.prepare(output={"exports": ["GGUF"]})
    assert ended.value.code == ExitCode.ConfigInvalid


def test_a_bucket_that_may_not_be_written_is_found_first(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setattr(storage, "RETRY_TIMEOUT", timedelta(seconds=0.3))
    seen: list[Request] = []

    def read_only(request: Request) -> Answer:
        seen.append(request)
        return Answer(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")

    with stub_server(read_only) as endpoint:
        run = run_file(endpoint=endpoint)
        with pytest.raises(TrainerError) as caught:
            prepare(run, bucket=open_bucket(run.storage), progress=world.progress, scratch=tmp_path)
    assert caught.value.code is ExitCode.StorageDenied
    assert "refused to write s3://team-a/work" in caught.value.message
    assert [request.method for request in seen] == ["PUT"]
