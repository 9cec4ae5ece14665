"""`python hostile_trainer.py FOLDER [--old-kernel]`: a trainer with keys in its environment, and a hostile reward.

Runs as an ordinary user, as in a pod: root may read everything.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

from lora_trainer.contract.spec.rewards import RewardSpec
from lora_trainer.errors import TrainerError
from lora_trainer.processes import hide_from_others
from lora_trainer.rewards import child
from lora_trainer.rewards.builtin import Answer
from lora_trainer.rewards.panel import code_file, open_panel

CANARY = "canary-"
USER = 1000
PR_SET_DUMPABLE = 4


def become_ordinary() -> None:
    """Drop root's rights for good. The kernel hides a process that does so; one that never was root is not hidden."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if not os.access(sys.executable, os.X_OK):
        sys.executable = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


def main(folder: Path, *, old_kernel: bool) -> None:
    """Print how the reward ended."""
    become_ordinary()
    hide_from_others()
    tempfile.tempdir = str(folder / "tmp")
    with (folder / "token").open():  # a descriptor that nobody may inherit
        if old_kernel:
            shutil.copy(child.__file__, folder / "child.py")
            (folder / "confinement.py").write_text("confine = lambda **_: False\ninterpreter = lambda: []\n")
            child.__file__ = str(folder / "child.py")
        spec = RewardSpec.model_validate({"python": {"configMapRef": {"name": "judges", "key": "judge.py"}}})
        assert (folder / code_file(0)).is_file()
        try:
            with open_panel([spec], folder) as panel:
                panel.rewards([Answer(text="a", ids=[1], prompt="q", columns={})])
        except TrainerError as error:
            print(error.code.name, error.message)


if __name__ == "__main__":
    main(Path(sys.argv[1]), old_kernel="--old-kernel" in sys.argv)
