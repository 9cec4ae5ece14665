"""cleanup in a bucket of many runs: what goes, and all that must stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.cleanup import clean_up
from lora_trainer.contract.layout import (
    artifact_uri,
    checkpoints_uri,
    compiled_uri,
    data_report_uri,
    latest_uri,
    prepared_uri,
    rejected_uri,
    trained_run_uri,
    trial_uri,
    work_uri,
)
from lora_trainer.contract.run import RunFile
from lora_trainer.storage import Bucket
from obstore.store import MemoryStore

from tests.support.runs import BUCKET, run_file

ROOT = f"s3://{BUCKET}"
PARTS = st.sampled_from(["a", "aa", "a-1", "prepared", "checkpoints", "work", "data-report.json"])
"""Names of which one begins like another, or is a folder's."""
IDENTITIES = st.lists(st.tuples(PARTS, PARTS, PARTS), min_size=1, max_size=6, unique=True)


def only_unfinished_runs_need(run: RunFile) -> set[str]:
    steps = {f"{checkpoints_uri(run)}/step-{step}/{name}" for step in (1, 10) for name in ("manifest.json", "a.pt")}
    rows = {f"{prepared_uri(run)}/{name}" for name in ("manifest.json", "prepared.json", "train.parquet")}
    return steps | rows | {trial_uri(run)}


def stays(run: RunFile) -> set[str]:
    adapters = {f"{folder(run, 'd1')}/manifest.json" for folder in (artifact_uri, rejected_uri)}
    shared = {f"{compiled_uri(run, 'f1')}/manifest.json", latest_uri(run), trained_run_uri(run)}
    return adapters | shared | {data_report_uri(run)}


@given(
    identities=IDENTITIES,
    output=st.sampled_from(["adapters", "work", "work/a", "work/a/prepared"]).map(lambda path: f"{ROOT}/{path}"),
)
def test_a_cleanup_removes_the_work_of_one_run_and_nothing_that_another_needs(
    identities: list[tuple[str, str, str]], output: str
) -> None:
    store = MemoryStore()
    bucket = Bucket(open_store=lambda _: store)
    runs = [
        run_file(identity={"namespace": namespace, "name": name, "uid": uid}, output={"uri": output})
        for namespace, name, uid in identities
    ]
    finished, *unfinished = runs
    goes = only_unfinished_runs_need(finished)
    kept = set().union(*(only_unfinished_runs_need(run) for run in unfinished), *(stays(run) for run in runs))
    for uri in goes | kept:
        bucket.write(uri, b"contents")
    result = clean_up(work_uri(finished), bucket=bucket)
    assert {f"{ROOT}/{file.path}" for file in bucket.list(ROOT)} == kept
    assert result.files == len(goes - {trial_uri(finished)})
    assert clean_up(work_uri(finished), bucket=bucket).files == 0, "it may be repeated"
