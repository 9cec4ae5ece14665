"""Progress over HTTP, the loss curve's points, and logs that keep secrets."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.credentials import SECRET_VARIABLES
from lora_trainer.contract.progress import MAX_HISTORY, Phase, Progress
from lora_trainer.redaction import redact, redacted, take
from lora_trainer.telemetry import LossHistory, ProgressServer, configure_logging


@pytest.fixture
def server() -> Iterator[ProgressServer]:
    with ProgressServer(port=0) as running:
        yield running


def get(server: ProgressServer, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as response:
        return response.read().decode()


def test_progress_before_and_after_an_update(server: ProgressServer) -> None:
    assert Progress.model_validate_json(get(server, "/progress")) == Progress(phase=Phase.STARTING)
    server.update(phase=Phase.TRAINING, step=3, total_steps=60, loss=1.5, checkpoint="s3://b/c")
    server.update(eta_seconds=9)
    seen = json.loads(get(server, "/progress"))
    assert seen["phase"] == "Training"
    assert (seen["step"], seen["totalSteps"], seen["etaSeconds"], seen["checkpoint"]) == (3, 60, 9, "s3://b/c")
    assert seen["history"] == [{"step": 3, "loss": 1.5}], "an update without a loss adds no point"


def test_metrics_are_prometheus_text(server: ProgressServer) -> None:
    server.update(step=3, loss=1.5)
    lines = get(server, "/metrics").splitlines()
    assert "lora_trainer_step 3.0" in lines
    assert "lora_trainer_loss 1.5" in lines


def test_health_and_unknown_paths(server: ProgressServer) -> None:
    assert get(server, "/healthz") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server, "/other")


def test_unknown_fields_are_refused(server: ProgressServer) -> None:
    with pytest.raises(ValueError, match="lose"):
        server.update(lose=1.0)


@given(st.integers(1, 3000))
def test_history_stays_small_even_and_complete(steps: int) -> None:
    history = LossHistory()
    for step in range(1, steps + 1):
        history.add(step=step, loss=1 / step)
    points = [point.step for point in history.points]
    assert points[0] == 1
    assert min(steps, MAX_HISTORY // 2) <= len(points) <= MAX_HISTORY
    gaps = {second - first for first, second in pairwise(points)}
    assert len(gaps) <= 1, "points are evenly spaced"


def test_logs_are_json_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-value")
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(stream)
        logging.getLogger("lora_trainer.x").info("hello %s", "s3cr3t-value", extra={"fields": {"step": 3}})
        try:
            raise ValueError("s3cr3t-value")
        except ValueError:
            logging.getLogger("lora_trainer.x").exception("failed")
    finally:
        root.handlers[:], root.level = before
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["message"] == "hello ***"
    assert (first["step"], first["level"]) == (3, "info")
    assert "ValueError: ***" in second["exception"]


@pytest.mark.parametrize("variable", SECRET_VARIABLES)
def test_no_credential_is_shown_be_it_plain_or_inside_json(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    key = '-----BEGIN KEY-----\nMIGHAgEA"\n-----END KEY-----'
    monkeypatch.setenv(variable, key + "\n")
    assert redact(f"read {key} and failed") == "read *** and failed"
    assert redact(json.dumps({"message": f"read {key} and failed"})) == '{"message": "read *** and failed"}'


SECRET = "s3cr3t/value+of=a:key 0123456789"


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        quote(SECRET, safe=""),
        SECRET.encode().hex(),
        *(base64.b64encode(b"x" * offset + SECRET.encode() + b"yy").decode() for offset in range(3)),
        *(base64.urlsafe_b64encode(b"x" * offset + SECRET.encode() + b"yy").decode() for offset in range(3)),
    ],
)
def test_no_credential_is_shown_in_another_encoding(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    shown = redact(f"see {written} here")
    assert "***" in shown
    left = shown.removeprefix("see ").removesuffix(" here").split("***")
    assert all(len(end) <= 8 for end in left), "of base64, the ends are left, which depend on what is beside them"


def test_a_line_of_a_key_is_not_shown_alone_nor_after_the_key_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    line = secrets.token_hex(24)
    monkeypatch.setenv("LORA_SIGNING_KEY", f"-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n")
    for _ in range(2):
        assert redacted({"result": [{"text": f"it is {line}"}], "step": 3}) == {
            "result": [{"text": "it is ***"}],
            "step": 3,
        }
        take("LORA_SIGNING_KEY")
    assert "LORA_SIGNING_KEY" not in os.environ


@given(st.text(max_size=30))
def test_texts_without_credentials_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_keys_are_secret_and_names_of_accounts_are_not() -> None:
    assert {"LORA_SIGNING_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_SERVICE_ACCOUNT_KEY"} <= {
        *SECRET_VARIABLES
    }
    assert "AWS_ACCESS_KEY_ID" not in SECRET_VARIABLES
