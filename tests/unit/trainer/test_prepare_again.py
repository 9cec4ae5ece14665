"""prepare for a run that is created again: its adapter is in the bucket, and its status is lost."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import artifact_uri, prepared_uri, rejected_uri
from lora_trainer.contract.outcome import PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.errors import TrainerError
from lora_trainer.publishing.trained_run import remember, trained_from

from tests.support.model_hub import COMMIT, NAME, Hub
from tests.support.prepare_world import CHATS, World
from tests.support.published import publish_adapter
from tests.support.runs import run_file
from tests.unit.trainer.test_base_model import hub

__all__ = ["hub"]

NEWER = "f" * 40


def on_hub(**blocks: Any) -> RunFile:
    """The run with the hub's model."""
    return run_file(**blocks | {"model": {"name": NAME} | blocks.get("model", {})})


def again(**blocks: Any) -> RunFile:
    """The run as another object with the same namespace and name."""
    return on_hub(**blocks | {"identity": {"uid": "another"} | blocks.get("identity", {})})


@pytest.fixture
def first(world: World, hub: Hub) -> PrepareResult:
    """What prepare found for the run, which then published its adapter. The branch has moved since."""
    run = on_hub()
    result = world.prepare_run(run)
    publish_adapter(world.bucket, run, result)
    remember(run, result, world.bucket)
    hub.commits.append(NEWER)
    return result


def test_a_branch_that_has_moved_does_not_train_a_finished_run_again(world: World, first: PrepareResult) -> None:
    found = world.prepare_run(again())
    assert found.artifact
    assert found.artifact.uri == artifact_uri(on_hub(), first.run_digest)
    assert found.run_digest == first.run_digest
    assert (found.model.revision, found.model.newer_revision) == (COMMIT, NEWER)
    assert not world.bucket.list(prepared_uri(again())), "nothing is left to train"


@pytest.mark.parametrize(
    "blocks",
    [
        {"training": {"learningRate": 1e-3}},
        {"identity": {"name": "another"}},
        {"model": {"revision": "main"}},
    ],
    ids=["another setting", "another name", "another revision"],
)
@pytest.mark.usefixtures("first")
def test_a_run_that_asks_for_something_else_is_trained_on_the_newest_commit(
    world: World, blocks: dict[str, Any]
) -> None:
    run = again(**blocks)
    found = world.prepare_run(run)
    assert found.artifact is None
    assert (found.model.revision, found.model.newer_revision) == (NEWER, None)
    assert world.bucket.list(prepared_uri(run))


@pytest.mark.usefixtures("first")
def test_rows_that_have_changed_are_trained_on_the_newest_commit(world: World) -> None:
    world.write("data/train.jsonl", CHATS[:-1])
    found = world.prepare_run(again())
    assert found.artifact is None
    assert found.model.revision == NEWER
    assert found.dataset.rows == len(CHATS) - 1


@pytest.mark.usefixtures("first")
def test_a_commit_that_is_gone_is_no_obstacle(world: World, hub: Hub) -> None:
    hub.commits.remove(COMMIT)
    found = world.prepare_run(again())
    assert found.artifact is None
    assert found.model.revision == NEWER


def test_an_adapter_that_missed_its_gate_is_not_trained_again(world: World, hub: Hub) -> None:
    strict = {"evaluation": {"gates": [{"metric": "TokenAccuracy", "min": 0.9}]}}
    run = on_hub(**strict)
    result = world.prepare_run(run)
    publish_adapter(world.bucket, run, result, folder_of=rejected_uri)
    remember(run, result, world.bucket)
    hub.commits.append(NEWER)
    with pytest.raises(TrainerError, match=r"token accuracy 0\.8000 is below") as ended:
        world.prepare_run(again(**strict))
    assert ended.value.code is ExitCode.QualityGateFailed


@pytest.mark.usefixtures("hub")
def test_a_run_that_reuses_an_adapter_of_another_name_remembers_its_commit_too(world: World) -> None:
    publish_adapter(world.bucket, on_hub(), world.prepare_run(on_hub()))
    copy = on_hub(identity={"name": "copy"})
    assert trained_from(copy, world.bucket) is None
    assert world.prepare_run(copy).artifact
    assert trained_from(copy, world.bucket) == COMMIT


def test_a_model_in_a_folder_needs_no_record(world: World) -> None:
    run = run_file()
    remember(run, world.prepare_run(run), world.bucket)
    assert trained_from(run, world.bucket) is None
