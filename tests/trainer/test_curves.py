"""loss.png: the same history makes the same bytes, and another one others."""

from __future__ import annotations

from pathlib import Path

from lora_trainer.contract.spec.training import Method
from lora_trainer.publishing.curves import write_loss_curve

from tests.builders import an_evaluation

HISTORY = [{"step": step, "loss": 2 / step} for step in range(1, 20)]


def drawn(folder: Path, name: str, history: list[dict]) -> bytes:
    write_loss_curve(folder / name, history=history, figures=an_evaluation(), method=Method.SFT)
    return (folder / name).read_bytes()


def test_a_curve_is_a_png_of_the_same_bytes(tmp_path: Path) -> None:
    first = drawn(tmp_path, "a.png", HISTORY)
    assert first.startswith(b"\x89PNG")
    assert drawn(tmp_path, "b.png", [*HISTORY, {"step": 19, "train_runtime": 3.0}]) == first
    assert drawn(tmp_path, "c.png", [*HISTORY, {"step": 10, "eval_loss": 1.0}]) != first
    assert b"Software" not in first


def test_every_method_has_its_curve(tmp_path: Path) -> None:
    figures = an_evaluation().model_copy(update={"base_reward": 0.2, "reward": 0.6})
    history = [{"step": step, "loss": 0.0, "reward": step / 20} for step in range(1, 20)]
    curves = []
    for method in Method:
        write_loss_curve(tmp_path / "c.png", history=history, figures=figures, method=method)
        curves.append((tmp_path / "c.png").read_bytes())
    assert len(set(curves)) == len(Method)


def test_a_step_whose_answers_no_reward_applies_to_is_a_gap(tmp_path: Path) -> None:
    rewarded = [{"step": step, "loss": 0.0, "reward": None if step == 9 else step / 20} for step in range(1, 20)]
    unrewarded = [{"step": step, "loss": 0.0, "reward": None} for step in range(1, 20)]
    curves = []
    for history in (rewarded, unrewarded):
        write_loss_curve(tmp_path / "c.png", history=history, figures=an_evaluation(), method=Method.GRPO)
        curves.append((tmp_path / "c.png").read_bytes())
    assert len(set(curves)) == 2
