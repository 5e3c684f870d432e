"""Resume: the curve goes on to the sixth digit, in this layout and in others; what is not a checkpoint is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.errors import TrainingError
from steerlm.training.config import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import GQA, LR, OUTPUTS, SHAPES, curve, engine, objective, packed, samples, weights

STATE = {"step": 3, "consumed": 27, "note": "é"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "dp2": {"devices": 2},
    "tp2 sp": {"devices": 2, "tensor": 2, "sequence_parallel": True},
    "pp2 dp2": {"devices": 4, "pipeline": 2},
}


def _whole(folder: Path, outputs: int | None, layout: dict[str, Any], precision: str) -> list[tuple[float, float]]:
    """Six steps, a checkpoint after three; the checkpoint must not disturb."""
    of = engine(outputs=outputs, layout=layout, precision=precision)
    losses = curve(of, outputs, range(3))
    of.save(folder, STATE)
    return losses + curve(of, outputs, range(3, 6))


def _resumed(folder: Path, outputs: int | None, layout: dict[str, Any], precision: str) -> list[tuple[float, float]]:
    of = engine(outputs=outputs, layout=layout, precision=precision, seed=99)
    of.step(packed(samples(50, outputs), of.layout), objective(outputs), LR)  # what is loaded replaces all of this
    assert of.load(folder) == STATE
    losses = curve(of, outputs, range(3, 6))
    (steps,) = {float(state["step"]) for state in of.optimizer.optimizer.state.values()}
    assert steps == 6
    return losses


def _compare(saved: str, loaded: str, outputs: int | None, folder: Path, precision: str) -> None:
    path = folder / "step-000003"
    count, again = (LayoutSettings(**LAYOUTS[name]).processes for name in (saved, loaded))
    whole = ranks(count, _whole, path, outputs, LAYOUTS[saved], precision)[0]
    assert (path / "COMPLETE").exists()
    resumed = ranks(again, _resumed, path, outputs, LAYOUTS[loaded], precision)
    for losses in resumed:
        for (loss, norm), (wanted_loss, wanted_norm) in zip(losses, whole[3:], strict=True):
            assert loss == pytest.approx(wanted_loss, abs=1e-6) and norm == pytest.approx(wanted_norm, rel=1e-5)


@pytest.mark.parametrize(
    ("saved", "loaded", "outputs"),
    [
        ("one", "one", None),
        ("one", "tp2 sp", OUTPUTS),
        ("tp2 sp", "pp2 dp2", None),
        ("pp2 dp2", "one", OUTPUTS),
        ("dp2", "dp2", None),
    ],
)
def test_resume_goes_on_to_the_sixth_digit(saved: str, loaded: str, outputs: int | None, tmp_path: Path) -> None:
    _compare(saved, loaded, outputs, tmp_path, "fp32")


def test_resume_in_bf16_restores_the_masters(tmp_path: Path) -> None:
    _compare("one", "one", None, tmp_path, "bf16")


def _best(folder: Path) -> None:
    of = engine(SHAPES["tied"], precision="bf16")
    curve(of, None, range(2))
    of.save(folder / "best", {})
    of.write_hf(folder / "saved")
    curve(of, None, range(2, 4))
    of.load_weights(folder / "best")
    of.write_hf(folder / "loaded")
    assert of.step(packed(samples(0)), objective(None), 0.0).loss > 0
    of.write_hf(folder / "stepped")


def test_the_best_weights_alone(tmp_path: Path) -> None:
    one(_best, tmp_path)
    saved, loaded, stepped = (weights(tmp_path / name) for name in ("saved", "loaded", "stepped"))
    # The last: the optimizer's masters follow, else a step would bring the old weights back.
    assert all(torch.equal(saved[name], loaded[name]) and torch.equal(saved[name], stepped[name]) for name in saved)


def _refused(folder: Path) -> None:
    of = engine(GQA)
    of.save(folder / "one", {})
    of.save(folder / "one", {"again": True})
    assert of.load(folder / "one") == {"again": True}
    with pytest.raises(TrainingError, match="another model"):
        engine(SHAPES["mha"]).load(folder / "one")
    with pytest.raises(TrainingError, match="another model"):
        engine(GQA, OUTPUTS).load_weights(folder / "one")
    (folder / "one" / "COMPLETE").unlink()
    with pytest.raises(TrainingError, match="COMPLETE is missing"):
        of.load(folder / "one")
    (folder / "one" / "COMPLETE").touch()
    next((folder / "one" / "tensors").glob("*.distcp")).unlink()
    with pytest.raises(TrainingError, match="damaged"):
        of.load(folder / "one")


def test_what_is_not_a_checkpoint_of_this_model_is_refused(tmp_path: Path) -> None:
    one(_refused, tmp_path)
