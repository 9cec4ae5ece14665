"""`python -m lora_trainer cleanup`: deletes what only an unfinished run needs, its prepared rows and its checkpoints.

The folder is the run's own: its path ends in the uid of the LoraFineTune. The data report stays, because status names
it. Adapters and the compiled code that runs share are elsewhere.
"""

from __future__ import annotations

from lora_trainer.contract.layout import CHECKPOINTS_FOLDER, PREPARED_FOLDER, TRIAL
from lora_trainer.contract.outcome import CleanupResult
from lora_trainer.storage import Bucket


def clean_up(work: str, *, bucket: Bucket) -> CleanupResult:
    """Clean up the work folder of one finished run. May be repeated. Raises TrainerError of the storage."""
    files = sum(bucket.delete_prefix(f"{work}/{folder}") for folder in (PREPARED_FOLDER, CHECKPOINTS_FOLDER))
    bucket.delete(f"{work}/{TRIAL}")
    return CleanupResult(files=files)
