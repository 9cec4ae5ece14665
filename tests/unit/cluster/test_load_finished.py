"""The finished runs of the load benchmark: the operator takes them for runs that have ended well."""

from __future__ import annotations

import aiohttp
import pytest
from lora_operator import naming
from lora_operator.api.lorafinetune import LoraFineTune, parse_run
from lora_operator.engine.cache import run_record
from lora_operator.planning.decision import make_plan

from benchmarks.load import ours
from benchmarks.load.__main__ import figures
from benchmarks.load.burst import namespaces
from benchmarks.load.finished import Outputs, active_runs, create_finished
from tests.builders import a_class, after
from tests.cluster import api
from tests.component.world import CRDS
from tests.fakes.apiserver import FakeApiServer
from tests.unit.operator.simulation import Simulation

COUNT, ACTIVE = 20, 5


async def created(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The finished runs, as the API server has them."""
    async with FakeApiServer(crds=CRDS, namespaces=namespaces()) as server, aiohttp.ClientSession() as session:
        monkeypatch.setattr(api, "API_URL", server.url)
        await create_finished(api.Api(session=session), outputs, count=COUNT, active=ACTIVE)
        return server.objects(naming.RUN_PLURAL)


def waked(run: LoraFineTune) -> Simulation:
    return Simulation(run=run, classes=(a_class(ours.CLASS),), now=after(3600))


@pytest.mark.parametrize("outputs", Outputs)
async def test_the_operator_has_nothing_to_do_for_them(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [parse_run(body) for body in await created(outputs, monkeypatch)]
    assert len(runs) == COUNT
    for run in runs:
        assert run.status.terminal
        plan = make_plan(waked(run).observe(), after(3600))
        assert (plan.status, plan.actions) == (run.status, ())


@pytest.mark.parametrize(("outputs", "together"), [(Outputs.OWN, 1), (Outputs.SHARED, 1 + COUNT // ACTIVE)])
async def test_how_many_runs_share_the_output_of_one_that_trains(
    outputs: Outputs, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = [run_record(body).output for body in await created(outputs, monkeypatch)]
    training = [body["spec"]["output"]["uri"] for _, body in active_runs(ACTIVE)]
    assert len(set(training)) == ACTIVE
    assert {(finished + training).count(uri) for uri in training} == {together}
    assert len(set(finished)) == (COUNT if outputs is Outputs.OWN else ACTIVE)


def test_the_table_has_a_row_for_each() -> None:
    few = {outputs: {"cores": cores} for outputs, cores in ((Outputs.OWN, 0.01), (Outputs.SHARED, 0.3))}
    rows = [(figure.name, figure.value, figure.reached) for figure in figures({"finished": few})]
    assert rows == [
        ("50 active runs beside 5000 finished ones, one output each", 0.01, True),
        ("50 active runs beside 5000 finished ones, 100 of them at the output of each", 0.3, False),
    ]
