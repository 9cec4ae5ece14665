"""Answers of any content: at worst an error of the API server; nothing, for APIs that the operator can do without."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.aio import client
from lora_operator.engine.kueue import places_of
from lora_operator.engine.refusals import Refusals
from lora_operator.kube.errors import LONGEST_RETRY_AFTER, KubeError, seconds_of
from lora_operator.kube.gateway import EVENTS, JOBS, Gateway
from lora_operator.naming import JOB_UID_LABEL, Stage

from tests.builders import NAMESPACE, a_job, after

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def shaped(fields: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects with these fields, some missing and some of another kind."""
    return JSON | st.fixed_dictionaries({}, optional={name: value | JSON for name, value in fields.items()})


METADATA = shaped(
    {
        "labels": shaped({JOB_UID_LABEL: st.just("uid")}),
        "ownerReferences": st.lists(shaped({"uid": st.just("uid")}), max_size=2),
    }
)
ITEM = shaped(
    {
        "metadata": METADATA,
        "involvedObject": shaped({"uid": st.just("uid")}),
        "message": st.text(max_size=3000),
        "lastTimestamp": st.text(max_size=5),
        "positionInLocalQueue": st.integers(),
        "status": shaped(
            {
                "conditions": st.lists(
                    shaped({"type": st.just("Admitted"), "status": st.just("False"), "message": st.text(max_size=5)}),
                    max_size=2,
                )
            }
        ),
    }
)
ANSWER = shaped({"items": st.lists(ITEM, max_size=3), "metadata": shaped({"continue": st.just("")})})
CONTENT = st.binary(max_size=20) | ANSWER.map(lambda answer: json.dumps(answer).encode())
RETRY_AFTER = st.none() | st.text(max_size=40) | st.floats().map(str) | st.datetimes().map(format_datetime)
STATUS = st.sampled_from([200, 201, 204, 301, 404, 409, 429, 500, 503])


@dataclass
class Api:
    """A client whose every answer is this one, however often it is asked; a list ends with its third page."""

    status: int
    body: bytes
    retry_after: str | None = None
    pages: int = 0
    sent: list[str] = field(default_factory=list)

    async def param_serialize(self, **request: Any) -> tuple[str, str, dict[str, str], Any, None]:
        return request["method"], request["resource_path"], request["header_params"], request["body"], None

    async def call_api(self, method: str, url: str, *_: Any, _request_timeout: float) -> Api:
        assert _request_timeout > 0
        self.sent.append(f"{method} {url}")
        if len(self.sent) > 20:
            raise TimeoutError
        return self

    async def read(self) -> bytes:
        return self.body

    def getheaders(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": self.retry_after}


def gateway_to(api: Api) -> Gateway:
    return Gateway(cast(client.ApiClient, api), record=lambda *_: None)


@given(status=STATUS, body=CONTENT, retry_after=RETRY_AFTER)
def test_any_answer_is_an_object_or_an_error(status: int, body: bytes, retry_after: str | None) -> None:
    async def main() -> None:
        gateway = gateway_to(Api(status=status, body=body, retry_after=retry_after))
        for request in (
            gateway.get(JOBS, NAMESPACE, "x"),
            gateway.create(EVENTS, {"metadata": {"namespace": NAMESPACE}}),
            gateway.serves(JOBS),
        ):
            answer = (await asyncio.gather(request, return_exceptions=True))[0]
            assert isinstance(answer, dict | bool | KubeError), answer
            if isinstance(answer, KubeError) and answer.retry_after is not None:
                assert 0 <= answer.retry_after <= LONGEST_RETRY_AFTER
        with contextlib.suppress(KubeError):
            assert all([isinstance(item, dict) async for item in gateway.list(EVENTS)])

    asyncio.run(main())


@given(status=STATUS, body=CONTENT)
def test_whatever_kueue_answers_is_a_place_or_none(status: int, body: bytes) -> None:
    job = replace(a_job(Stage.TRAIN), uid="uid", suspended=True, queue="q")

    async def main() -> None:
        try:
            places = await places_of({NAMESPACE: [job]}, gateway_to(Api(status=status, body=body)))
        except KubeError:
            return
        assert isinstance(places["uid"].because, str)
        assert places["uid"].position is None or 0 < places["uid"].position <= 2**31

    asyncio.run(main())


@given(status=STATUS, body=CONTENT)
def test_whatever_the_events_say_is_a_message_or_none(status: int, body: bytes) -> None:
    job = replace(a_job(Stage.PREPARE), uid="uid", pods=())

    async def main() -> None:
        refusals = Refusals(gateway=gateway_to(Api(status=status, body=body)))
        message = await refusals.of(job, NAMESPACE, after(4))
        assert message is None or (isinstance(message, str) and len(message) <= 1024)

    asyncio.run(main())


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("1e9", LONGEST_RETRY_AFTER),
        ("inf", LONGEST_RETRY_AFTER),
        ("-3", 0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_the_time_to_wait_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header, now=NOW) == seconds
