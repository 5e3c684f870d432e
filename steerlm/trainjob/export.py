# SPDX-License-Identifier: Apache-2.0
"""Writes the model folder at the end of a training, and result.json."""

import dataclasses
import logging
import shutil
from typing import TYPE_CHECKING

from steerlm.errors import TrainingError
from steerlm.files import write_json
from steerlm.trainjob.spec import RESULT, TrainSpec

if TYPE_CHECKING:
    from steerlm.models.folder import ModelInfo
    from steerlm.training.engine import Engine
    from steerlm.training.state import TrainResult

log = logging.getLogger(__name__)


def export_model(spec: TrainSpec, engine: "Engine", result: "TrainResult", is_main_rank: bool) -> None:
    """Write the engine's weights and, on the main rank, the rest of the model folder; collective.

    Raises:
        TrainingError: The disk refuses the files. Training is saved by then; the same command writes the folder again.
    """
    from safetensors import SafetensorError

    folder = spec.output
    try:
        engine.write_hf(folder)
        if is_main_rank:
            _finish_folder(spec, result)
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        raise TrainingError(
            f"{folder}: the model could not be written ({error}); {free / 2**30:.1f} GiB are free there"
        ) from error


def _finish_folder(spec: TrainSpec, result: "TrainResult") -> None:
    from steerlm.models.folder import finish_folder

    dtype = "bfloat16" if spec.settings.precision == "bf16" else "float32"
    info = _describe(spec, result)
    finish_folder(spec.output, shape=spec.shape, tokenizer_from=spec.tokenizer_folder, info=info, dtype=dtype)
    write_json(spec.work / RESULT, dataclasses.asdict(result))
    log.info("wrote %s: step %d of %d", spec.output, result.exported_step, result.steps)


def _describe(spec: TrainSpec, result: "TrainResult") -> "ModelInfo":
    """Return the model's `steerlm.json`. Attributes without a label in the training data count as never trained."""
    from steerlm.models.folder import ModelInfo, read_info

    base = read_info(spec.model_folder) if spec.model_folder else None
    schema, attributes = spec.attribute_schema, None
    if spec.settings.trains_attributes:
        counts = result.counts["train"]
        attributes = schema.restricted([name for name in schema.active if counts.get(f"labels/{name}")])
    metrics = {name: round(value, 6) for name, value in result.metrics.items()}
    return ModelInfo(
        kind=spec.entry.model_kind,
        attributes=attributes,
        window=spec.settings.window,
        base=(base.base or spec.base or spec.model_folder.name) if base and spec.model_folder else None,
        license=base.license if base else None,
        metrics=metrics | {"step": result.exported_step},
        data={name: {k: v for k, v in counts.items() if v} for name, counts in result.counts.items()},
    )
