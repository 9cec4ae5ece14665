"""URIs of everything in the bucket. Manifests are written last: a folder without one does not count."""

from __future__ import annotations

from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.output import output_folder

MANIFEST = "manifest.json"
SIGNATURE = f"{MANIFEST}.sig"
PREPARED = "prepared.json"
EVALUATION = "evaluation.json"
LATEST = "latest.json"
DATA_REPORT = "data-report.json"
TRAINING_LOG = "training_log.jsonl"
LOSS_CURVE = "loss.png"
RUN_SHAPE = "run.json"
MODEL_CARD = "README.md"
PREPARED_FOLDER = "prepared"
CHECKPOINTS_FOLDER = "checkpoints"
TRIAL = "compiled-on-trial"


def work_uri(run: RunFile) -> str:
    """<work.uri>/<namespace>/<name>/<uid>: belongs to this one object, even if its name is used again later."""
    identity = run.identity
    return "/".join((run.storage.work_uri.rstrip("/"), identity.namespace, identity.name, identity.uid))


def prepared_uri(run: RunFile) -> str:
    """Folder of the prepared (tokenised) rows."""
    return f"{work_uri(run)}/{PREPARED_FOLDER}"


def data_report_uri(run: RunFile) -> str:
    """Report of prepare about the dataset, also where prepare failed; beside the prepared rows."""
    return f"{work_uri(run)}/{DATA_REPORT}"


def checkpoints_uri(run: RunFile) -> str:
    """Folder that holds one folder step-N per checkpoint."""
    return f"{work_uri(run)}/{CHECKPOINTS_FOLDER}"


def compiled_uri(run: RunFile, fingerprint: str) -> str:
    """Folder of compiled code, which all runs of a namespace share. No run's folder has this name."""
    return f"{run.storage.work_uri.rstrip('/')}/{run.identity.namespace}/_compiled/{fingerprint}"


def trial_uri(run: RunFile) -> str:
    """File with the fingerprint of compiled code that an attempt uses; it exists during the first steps."""
    return f"{work_uri(run)}/{TRIAL}"


def artifact_uri(run: RunFile, digest: str) -> str:
    """Folder of the published adapter."""
    return f"{output_folder(run.output.uri)}/{digest}"


def rejected_uri(run: RunFile, digest: str) -> str:
    """Folder of an adapter that did not pass evaluation.gates: complete and verified, but not published."""
    return f"{output_folder(run.output.uri)}/rejected/{digest}"


def trained_run_uri(run: RunFile) -> str:
    """Record of what this run was trained from. Its place follows from namespace and name, not from the uid: a run that
    is created again, in this cluster or in another one, finds it."""
    return f"{output_folder(run.output.uri)}/runs/{run.identity.namespace}/{run.identity.name}.json"


def latest_uri(run: RunFile) -> str:
    """Pointer to the adapter published last."""
    return f"{output_folder(run.output.uri)}/{LATEST}"
