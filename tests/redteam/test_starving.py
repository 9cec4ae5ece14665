"""One team takes names, requests, room and patience: the other team's runs end all the same (`other` looks at that)."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.runs import SCRIPTED_CLASS, Body, ready_message, ready_reason
from tests.redteam.attacker import Attacker
from tests.redteam.conftest import OtherTeam

SQUATTERS: dict[str, Body] = {
    "suspended": {"suspend": True},
    "of a class that does not exist": {"className": "no-such-class"},
    "whose rows do not exist": {"dataset": {"configMapRef": {"name": "none", "key": "none"}}, "suspend": True},
}


@pytest.mark.parametrize("squatter", SQUATTERS)
def test_a_run_that_does_not_work_holds_no_output(attacker: Attacker, other: OtherTeam, squatter: str) -> None:
    """In a class without an allow-list of outputs, anybody may name any output."""
    output = {"uri": f"s3://lora/shared/{uuid.uuid4().hex}"}
    body = attacker.run(f"squatter-{list(SQUATTERS).index(squatter)}", output=output)
    body["spec"] |= {"className": SCRIPTED_CLASS} | SQUATTERS[squatter]
    assert attacker.tries_to_apply(body) == ""
    attacker.tenant.wait(body["metadata"]["name"], lambda run: ready_reason(run) is not None, "a condition Ready")
    name = f"wanted-{uuid.uuid4().hex[:8]}"
    other.tenant.play(name, "ok", output=output)
    other.tenant.wait_for(name, "Ready")


def test_who_holds_an_output_is_not_told_to_other_teams(attacker: Attacker, other: OtherTeam) -> None:
    output = {"uri": f"s3://lora/shared/{uuid.uuid4().hex}"}
    holder = f"secret-{uuid.uuid4().hex[:8]}"
    other.tenant.play(holder, "until-stopped", output=output)
    other.tenant.wait_for_reason(holder, "Training")
    body = attacker.run("asks", output=output)
    body["spec"]["className"] = SCRIPTED_CLASS
    assert attacker.tries_to_apply(body) == ""
    said = ready_message(attacker.tenant.wait_for_reason("asks", "OutputInUse"))
    assert holder not in said
    assert other.tenant.namespace not in said
    assert attacker.tries("delete", "lorafinetune", "asks", "--wait=false") == ""
    other.tenant.patch(holder, suspend=True)


def test_a_crowd_of_runs_is_no_crowd_for_others(attacker: Attacker, other: OtherTeam) -> None:
    crowd = [attacker.run(f"crowd-{number}", suspend=True) for number in range(150)]
    assert attacker.tries_to_apply(*crowd) == ""
    other.wait_for_its_next_run()
    assert attacker.tries("delete", "lorafinetunes", "--all", "--wait=false") == ""


def test_changing_one_s_mind_all_the_time_disturbs_nobody(attacker: Attacker) -> None:
    attacker.starts("nervous", "until-stopped")
    for turn in range(20):
        change = json.dumps({"spec": {"suspend": turn % 2 == 0}, "metadata": {"annotations": {"turn": str(turn)}}})
        assert attacker.tries("patch", "lorafinetune", "nervous", "--type=merge", "-p", change) == ""
    attacker.tenant.patch("nervous", suspend=True)
    attacker.tenant.wait_for("nervous", "Suspended")
    attempts = attacker.tenant.run("nervous")["status"].get("attempts", [])
    assert len([attempt for attempt in attempts if "reason" not in attempt]) == 0


def test_a_name_made_and_deleted_again_and_again_ends_as_its_last(attacker: Attacker) -> None:
    """A kubelet that still has a pod of the run before must not give its ConfigMap to the next one."""
    for _ in range(6):
        attacker.starts("again", "until-stopped")
        assert attacker.tries("delete", "lorafinetune", "again", "--wait=false") == ""
        attacker.tenant.kubectl.wait_for(
            "the run is gone", lambda: attacker.tries("get", "lorafinetune", "again") != ""
        )
    attacker.starts("again")
    attacker.tenant.wait_for("again", "Ready")


def test_objects_as_large_as_the_api_server_takes_them(attacker: Attacker) -> None:
    large = attacker.run("large")
    large["metadata"]["annotations"] = {f"note-{number}": "x" * 60_000 for number in range(4)}
    assert attacker.tries("create", "-f", "-", stdin=json.dumps(large)) == ""
    attacker.tenant.wait_for("large", "Ready")
    larger = attacker.run("larger")
    larger["metadata"]["annotations"] = {f"note-{number}": "x" * 60_000 for number in range(8)}
    assert "Too long" in attacker.tries("create", "-f", "-", stdin=json.dumps(larger))


def test_a_flood_of_events_hides_nothing_of_others(attacker: Attacker, other: OtherTeam) -> None:
    involved = {"apiVersion": "v1", "kind": "Pod", "name": "x", "namespace": attacker.namespace}
    events = [
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"flood-{number}", "namespace": attacker.namespace},
            "involvedObject": involved,
            "reason": "Flood",
            "message": "x" * 1000,
        }
        for number in range(300)
    ]
    chunks = [json.dumps({"apiVersion": "v1", "kind": "List", "items": events[at::4]}) for at in range(4)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda chunk: attacker.tries("create", "-f", "-", stdin=chunk), chunks))
    other.wait_for_its_next_run()
    assert other.tenant.told(other.ended[-1]["metadata"]["name"], until="AdapterPublished")


HOSTILE_TRAINERS = ("hostile-progress", "hostile-ending")


@pytest.mark.parametrize("scenario", HOSTILE_TRAINERS)
def test_a_trainer_that_answers_nonsense_harms_its_own_run_only(attacker: Attacker, scenario: str) -> None:
    attacker.starts(scenario, scenario)
    ended = attacker.tenant.wait_for(scenario, "Finished")
    assert len(json.dumps(ended["status"])) < 100_000
    assert "\x1b" not in ready_message(ended)
