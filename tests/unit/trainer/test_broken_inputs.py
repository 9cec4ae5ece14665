"""A corpus of broken inputs: each ends prepare with its exit code, one sentence that names the place, and a remedy.

What users get wrong: data files, rows, templates, models, credentials, hubs and run files. Each case breaks one thing
of a run that is otherwise whole.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from lora_trainer import __main__ as entry
from lora_trainer import storage
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Outcome, PrepareResult, decode_outcome, encode_outcome
from lora_trainer.prepare import prepare
from lora_trainer.storage import open_bucket

from tests.builders import rows_at
from tests.support.prepare_world import CHATS, UNKNOWN_TOKENS, World, a_world, conversation
from tests.support.runs import run_file
from tests.support.stub_server import Answer, stub_server
from tests.support.tiny_model import CHATML, CONFIG

SECRET = "the-secret-access-key"
TRAIN = "s3://team-a/data/train.jsonl"
USER, ASSISTANT = CHATS[0]["messages"]
Change = Callable[[World], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is wrong, and what must be said."""

    code: ExitCode
    says: tuple[str, ...]
    """Parts of the message: the file, line or field, and what is wrong with it."""
    change: Change = lambda _: None
    blocks: Mapping[str, Any] = field(default_factory=dict)
    """Blocks of the run file."""
    store: Answer | None = None
    """What the object store answers to everything, where it is not the world's."""
    hub: Answer | None = None
    """What the hub answers to everything."""


def data(uri: str, **more: Any) -> dict[str, Any]:
    return {"dataset": {**rows_at(uri), **more}}


def files(**contents: Any) -> Change:
    """Files below data/, whose names are written with two underscores for the dot."""

    def write(world: World) -> None:
        for name, content in contents.items():
            world.write(f"data/{name.replace('__', '.')}", content)

    return write


def file(name: str, contents: Any, *says: str) -> Case:
    """A data set that is this one file."""
    change = files(**{name: contents})
    return Case(code=ExitCode.DatasetInvalid, says=says, change=change, blocks=data(f"s3://team-a/data/{name}"))


def rows(contents: Any, *says: str, **blocks: Any) -> Case:
    """A data set of these rows."""
    return Case(code=ExitCode.DatasetInvalid, says=says, change=files(train__jsonl=contents), blocks=blocks)


def row(columns: Any, *says: str) -> Case:
    """A fourth row among good ones."""
    return rows([*CHATS[:3], columns, *CHATS[4:]], "train.jsonl:4", *says)


def template(source: str, *says: str) -> Case:
    return Case(code=ExitCode.ChatTemplateInvalid, says=says, blocks=data(TRAIN, chatTemplate={"jinja": source}))


def model(code: ExitCode, *says: str, change: Change) -> Case:
    return Case(code=code, says=says, change=change)


def in_model(name: str, contents: str | bytes | None) -> Change:
    """Replace or remove one file of the model."""

    def write(world: World) -> None:
        if contents is None:
            (world.root / "models/smollm2" / name).unlink()
        else:
            world.write(f"models/smollm2/{name}", contents)

    return write


def plain_model(world: World) -> None:
    in_model("chat_template.jinja", None)(world)


def silent_model(world: World) -> None:
    in_model("tokenizer_config.json", "{}")(world)


def refused(status: int, code: str | None, *says: str, kind: ExitCode = ExitCode.StorageDenied) -> Case:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode() if code else b""
    return Case(code=kind, says=("s3://team-a/work", *says), store=Answer(status=status, body=body))


def at_hub(status: int, error: str | None, kind: ExitCode, *says: str, **blocks: Any) -> Case:
    answer = Answer(status=status, headers={"X-Error-Code": error} if error else {})
    return Case(code=kind, says=says, hub=answer, blocks=blocks)


def archive(**members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as into:
        for name, contents in members.items():
            into.writestr(name.replace("__", "."), contents)
    return sink.getvalue()


JSONL = "".join(json.dumps(chat) + "\n" for chat in CHATS).encode()
HUB_MODEL = {"model": {"name": "owner/private", "revision": "v2"}}
HUB_ROWS = data("hf://datasets/owner/rows@v2/data")
INVALID, MISSING = ExitCode.DatasetInvalid, ExitCode.DatasetNotFound
UNSUPPORTED, TEMPLATE = ExitCode.ModelUnsupported, ExitCode.ChatTemplateInvalid
WITHOUT_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{"}]}

CASES: dict[str, Case] = {
    # data files
    "no file": Case(code=MISSING, says=("s3://team-a/no.jsonl",), blocks=data("s3://team-a/no.jsonl")),
    "no file on the claim": Case(code=MISSING, says=("pvc://claim/no",), blocks=data("pvc://claim/no")),
    "no key in the config map": Case(code=MISSING, says=("configmap://a/no",), blocks=data("configmap://a/no")),
    "no file of the pattern": Case(code=MISSING, says=("data/x-*.csv",), blocks=data("s3://team-a/data/x-*.csv")),
    "a path upwards": Case(code=ExitCode.ConfigInvalid, says=("'..'",), blocks=data("s3://team-a/a/../b.jsonl")),
    "an empty file": file("a.jsonl", "", "a.jsonl", "has no rows"),
    "an unknown type": file("a.txt", "hello", "a.txt", "not a file of a supported type"),
    "a folder without data": Case(
        code=INVALID, says=("The folder s3://team-a/models/smollm2/sub", "found a.bin"),
        change=lambda world: world.write("models/smollm2/sub/a.bin", b"x"),
        blocks=data("s3://team-a/models/smollm2/sub"),
    ),
    "a line that is not JSON": file("a.jsonl", JSONL + b"{oops\n", "a.jsonl:101", "not JSON", "column 2"),
    "a line that is no object": file("a.jsonl", JSONL + b"[1]\n", "a.jsonl:101", "not a JSON object"),
    "a line that is not UTF-8": file("a.jsonl", JSONL + b'{"text": "\xff"}\n', "a.jsonl:101", "not UTF-8 at byte 11"),
    "a document that is not JSON": file("a.json", '[\n{"text": "x"},\n oops]', "a.json:3", "not JSON"),
    "a list of texts": file("a.json", '["a", "b"]', "a.json: row 1", "not a JSON object"),
    "a torn gzip": file("a.jsonl.gz", gzip.compress(JSONL)[:-9], "a.jsonl.gz cannot be read"),
    "no gzip": file("a.jsonl.gz", JSONL, "a.jsonl.gz cannot be read"),
    "no zstandard": file("a.jsonl.zst", JSONL, "a.jsonl.zst cannot be read"),
    "no xz": file("a.jsonl.xz", JSONL, "a.jsonl.xz cannot be read"),
    "no zip": file("a.zip", JSONL, "a.zip cannot be read"),
    "a zip without data": file("a.zip", archive(README__md=b"x"), "a.zip", "no file of a supported type"),
    "a bad line in a zip": file("a.zip", archive(b__jsonl=JSONL + b"{\n"), "a.zip/b.jsonl:101", "not JSON"),
    "a torn parquet file": file("a.parquet", b"PAR1 torn", "a.parquet cannot be read"),
    "a ragged table": file("a.csv", "text,b\na,1\nb,2\nc\n", "a.csv:4", "does not have the 2 columns"),
    "a table in another encoding": file("a.csv", b"text\nx\n\xfc\n", "a.csv:3: not UTF-8 (byte 0xfc)", "save"),
    "a header in another encoding": file("a.csv", b"t\xfcxt\nx\n", "a.csv:1: the header is not UTF-8"),
    "a table in UTF-16": file("a.csv", "text\nx\n".encode("utf-16"), "a.csv is UTF-16"),
    "a quote inside a quoted value": file(
        "a.csv", 'prompt,completion\nq0,a0\nq1,"he said "no" to it"\nq2,a2\n', "1 of 3 rows", "a.csv:3: not CSV",
    ),
    "half of a surrogate pair": file(
        "a.jsonl", JSONL + rb'{"messages": [{"role": "user", "content": "so nice \ud83d"}]}', "a.jsonl:101",
        r"messages[0].content has half of a surrogate pair (\ud83d) at character 9",
    ),
    "an integer of 5000 digits": file(
        "a.jsonl", JSONL + b'{"id": %s}' % (b"9" * 5000), "a.jsonl:101", "the column id is", "more than 4300 digits",
    ),
    "lists in lists": file("a.jsonl", JSONL + b"[" * 5000, "a.jsonl:101", "more than 100 levels deep"),
    "lines that are one array": file("a.jsonl", json.dumps(CHATS), "1 of 1 rows", "a.jsonl:1: a list of rows"),
    "an array on many lines": file("a.jsonl", "[\n  1\n]", "a.jsonl:1", "where the line ends", "array .json"),
    "a folder of descriptions": Case(
        code=INVALID, says=("no file of a supported type (found dataset_info.json)",),
        change=lambda world: world.write("data/set/dataset_info.json", "{}"), blocks=data("s3://team-a/data/set"),
    ),
    "a bad second source": Case(
        code=INVALID, says=("sources[1] b.jsonl:2", "not JSON"), change=files(b__jsonl='{"text": "a"}\n{oops\n'),
        blocks={"dataset": {"uri": None, "sources": [{"uri": TRAIN}, {"uri": "s3://team-a/data/b.jsonl"}]}},
    ),
    "no source at all": Case(code=ExitCode.ConfigInvalid, says=("no dataset",), blocks={"dataset": {"uri": None}}),
    # rows
    "unknown columns": rows([{"question": "q", "sql": "s"}], "found question, sql"),
    "a row of another format": row({"text": "t"}, "the column messages is missing (found text)"),
    "null for messages": row({"messages": None}, "the column messages is null"),
    "a text for messages": row({"messages": "hi"}, "messages is a string instead of a list"),
    "a text for a message": row({"messages": ["hi"]}, "messages[0] is a string"),
    "no answer": row({"messages": [USER]}, "no assistant message"),
    "an unknown role": row({"messages": [{"role": "wizard", "content": "x"}]}, "unknown role 'wizard'"),
    "no role": row({"messages": [{"content": "x"}]}, "messages[0] has no role"),
    "no content": row({"messages": [USER, {"role": "assistant"}]}, "messages[1] has no content (found role)"),
    "a picture": row({"messages": [{**USER, "content": [{"type": "image_url"}]}, ASSISTANT]}, "of type image_url"),
    "tools that are not JSON": row({"messages": [USER, ASSISTANT], "tools": "f("}, "the column tools is not JSON"),
    "a call that is not JSON": row({"messages": [USER, CALL]}, "messages[1].tool_calls is not JSON"),
    "a column that is not there": rows(CHATS, "the column chat is missing", dataset={
        "columns": {"messages": "chat"}, "format": "Messages"}),
    "a number for a text": rows([{"text": "a"}, {"text": 5}], "train.jsonl:2", "the column text is a number"),
    "more bad rows than allowed": rows(
        [*CHATS, {}, {}, {}], "3 of 103 rows", "allows 0.02", "train.jsonl:101", dataset={"maxBadFraction": 0.02}
    ),
    "bad rows only": rows([{"text": 1}] * 4, TRAIN, "4 of 4 cannot be used", dataset={"maxBadFraction": 1}),
    "answers of nothing": rows([{**conversation(1), "messages": [USER, {**ASSISTANT, "content": " "}]}], "EmptyAnswer"),
    "every row too long": rows([{"text": "a" * 600}, {"text": "a" * 900}], "maxSeqLength 512", "shortest has 601"),
    "a row too long where none may be": rows(
        [*CHATS, conversation("long " * 200)], "train.jsonl:101", "maxSeqLength 512", dataset={"overlength": "Fail"}
    ),
    "answers cut away": rows(
        [{"prompt": "q" * 40 + str(number), "completion": "a"} for number in range(5)], "NothingToTrain: 5 of 5",
        model={"maxSeqLength": 32}, dataset={"overlength": "Truncate"},
    ),
    "one row": rows(CHATS[:1], "No row can be held out", "1 rows"),
    "one row many times": rows([CHATS[0]] * 5, "5 rows, 4 of them repeated"),
    "an evaluation set of the same rows": Case(
        code=INVALID, says=("Every row of the dataset is also in the evaluation set",),
        blocks={"evaluation": {"dataset": {"uri": TRAIN}}},
    ),
    "no evaluation set": Case(
        code=MISSING, says=("s3://team-a/e.jsonl",), blocks={"evaluation": {"dataset": {"uri": "s3://team-a/e.jsonl"}}}
    ),
    "a bad evaluation set": Case(
        code=INVALID, says=("e.jsonl:1",), change=files(e__jsonl='{"messages": 1}\n'),
        blocks={"evaluation": {"dataset": {"uri": "s3://team-a/data/e.jsonl"}}},
    ),
    # chat templates
    "a template that does not compile": template("{% for m in messages %}", "does not compile", "line 1"),
    "a template of another model": template(UNKNOWN_TOKENS, "<|start_header_id|>", "does not know"),
    "a named template of another model": Case(
        code=TEMPLATE, says=("<|start_header_id|>",), blocks=data(TRAIN, chatTemplate={"name": "llama-3"})
    ),
    "a named template that the image lacks": Case(
        code=ExitCode.ConfigInvalid, says=("'zephyr'", "dataset.chatTemplate.name"),
        blocks=data(TRAIN, chatTemplate={"name": "zephyr"}),
    ),
    "a template that never ends an answer": template(CHATML.replace("<|im_end|>", ""), "instead of an end token"),
    "a template without the answer": template("a fixed text", "does not show the content of messages[0]"),
    "a template that raises": template("{{ raise_exception('tools only') }}", "tools only"),
    "a template that breaks out": template("{{ ''.__class__.__mro__ }}" + CHATML, "cannot render"),
    "a template that refuses a row": Case(
        code=INVALID, says=("train.jsonl:1", "no system role"),
        change=files(train__jsonl=json.dumps({"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]})),
        blocks=data(TRAIN, chatTemplate={"jinja": WITHOUT_SYSTEM + CHATML}),
    ),
    "chats for a base model": model(TEMPLATE, "no chat template", change=plain_model),
    "a broken template of the model's own": model(
        TEMPLATE, "does not compile", change=in_model("chat_template.jinja", "{{ broken")
    ),
    # models
    "no model": Case(
        code=ExitCode.ModelNotFound, says=("s3://team-a/none",), blocks={"model": {"name": "s3://team-a/none"}}
    ),
    "a folder that is no model": Case(
        code=UNSUPPORTED, says=("s3://team-a/data", "no config.json"), blocks={"model": {"name": "s3://team-a/data"}}
    ),
    "a config that is not JSON": model(UNSUPPORTED, "config.json is not JSON", change=in_model("config.json", "{")),
    "a model that generates nothing": model(UNSUPPORTED, "BertForMaskedLM", change=in_model(
        "config.json", json.dumps(CONFIG | {"architectures": ["BertForMaskedLM"]}))),
    "a config without sizes": model(UNSUPPORTED, "no hidden_size", change=in_model(
        "config.json", json.dumps(CONFIG | {"hidden_size": None}))),
    "no weights": model(UNSUPPORTED, "no .safetensors weights", change=in_model("model.safetensors", None)),
    "damaged weights": model(UNSUPPORTED, "damaged", change=in_model("model.safetensors", b"\xff" * 64)),
    "no tokenizer": model(UNSUPPORTED, "no tokenizer.json", change=in_model("tokenizer.json", None)),
    "a damaged tokenizer": model(UNSUPPORTED, "tokenizer.json cannot be read", change=in_model("tokenizer.json", "{")),
    "no end token": model(UNSUPPORTED, "has no end token", change=silent_model),
    "a model too large": Case(
        code=ExitCode.DoesNotFit, says=("the class offers 1 GiB",),
        blocks={"accelerator": {"kind": "GPU", "memoryGiB": 1}},
    ),
    # credentials and stores
    "an unknown access key": refused(403, "InvalidAccessKeyId", "InvalidAccessKeyId"),
    "a wrong secret key": refused(403, "SignatureDoesNotMatch", "SignatureDoesNotMatch"),
    "an expired token": refused(400, "ExpiredToken", "ExpiredToken"),
    "a bucket that may not be written": refused(403, "AccessDenied", "refused to write"),
    "no bucket": refused(404, "NoSuchBucket", "'team-a' does not exist"),
    "another region": refused(301, None, "did not accept"),
    "a clock that is wrong": refused(403, "RequestTimeTooSkewed", "RequestTimeTooSkewed"),
    "a store that is down": refused(503, "SlowDown", "did not answer", kind=ExitCode.StorageUnavailable),
    # hubs
    "a gated model": at_hub(403, "GatedRepo", ExitCode.ModelAccessDenied, "owner/private", "no token", **HUB_MODEL),
    "a hidden model": at_hub(401, "RepoNotFound", ExitCode.ModelNotFound, "owner/private", "is private", **HUB_MODEL),
    "no revision of a model": at_hub(404, "RevisionNotFound", ExitCode.ModelNotFound, "at revision v2", **HUB_MODEL),
    "a hub that is down": at_hub(500, None, ExitCode.HubUnavailable, "owner/private", "HTTP 500", **HUB_MODEL),
    "a gated data set": at_hub(403, "GatedRepo", ExitCode.DatasetAccessDenied, "dataset owner/rows", **HUB_ROWS),
    "a hidden data set": at_hub(401, "RepoNotFound", MISSING, "dataset owner/rows", "it is private", **HUB_ROWS),
    "no revision of a data set": at_hub(404, "RevisionNotFound", MISSING, "owner/rows at revision v2", **HUB_ROWS),
    "a hub of rows that is down": at_hub(500, None, ExitCode.HubUnavailable, "owner/rows", "HTTP 500", **HUB_ROWS),
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(storage, "RETRY_TIMEOUT", timedelta(seconds=0.3))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with a_world(tmp_path, monkeypatch) as made:
        yield made


def run_to_its_end(case: Case, world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[ExitCode, Outcome]:
    """Exit code and termination message of prepare, as the operator reads it."""
    case.change(world)

    def stage() -> PrepareResult:
        if case.store:
            with stub_server(lambda _: case.store or Answer(status=500)) as endpoint:
                run = run_file(endpoint=endpoint, **case.blocks)
                bucket = open_bucket(run.storage)
                return prepare(run, bucket=bucket, progress=world.progress, scratch=world.scratch)
        if case.hub:
            with stub_server(lambda _: case.hub or Answer(status=500)) as endpoint:
                monkeypatch.setenv("HF_ENDPOINT", endpoint)
                return world.prepare(**case.blocks)
        return world.prepare(**case.blocks)

    ending = entry.finish(stage)
    outcome = decode_outcome(encode_outcome(ending.outcome))
    assert outcome
    return ending.code, outcome


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_in_one_sentence_with_a_remedy(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    code, outcome = run_to_its_end(case, world, monkeypatch)
    assert code is case.code, outcome
    assert outcome.reason == case.code.name
    assert outcome.result is None
    for words in case.says:
        assert words in outcome.message
    assert is_one_sentence(outcome.message), outcome.message
    assert outcome.remedy
    assert outcome.remedy.endswith(".")
    said = outcome.message + outcome.remedy
    assert not re.search(r"Traceback|Error\b.*line \d|\.py\b|" + SECRET, said)
    assert not any((world.root / "work").rglob("manifest.json")), "nothing that train would take for prepared"


def is_one_sentence(message: str) -> bool:
    return message.endswith(".") and not re.search(r"\n|\w\. [A-Z]", message) and not message.startswith(" ")


def test_the_run_that_is_broken_is_otherwise_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    code, outcome = run_to_its_end(Case(code=ExitCode.Succeeded, says=()), world, monkeypatch)
    assert code is ExitCode.Succeeded
    assert isinstance(outcome.result, PrepareResult)
