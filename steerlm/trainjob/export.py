# SPDX-License-Identifier: Apache-2.0
"""Writes the model folder at the end of a training, result.json, and on a cluster the list of both."""

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm import attempt
from steerlm.checksums import FileDigest, sha256_file
from steerlm.errors import TrainingError
from steerlm.files import write_json
from steerlm.jobs.kubernetes.visible import write_file_list
from steerlm.trainjob.spec import RESULT, TrainSpec

if TYPE_CHECKING:
    from steerlm.models.folder import ModelInfo
    from steerlm.training.engine import Engine
    from steerlm.training.state import TrainResult

log = logging.getLogger(__name__)


def export_model(spec: TrainSpec, engine: "Engine", result: "TrainResult", is_main_rank: bool) -> None:
    """Write the engine's weights and, on the main rank, the rest of the model folder; collective.

    Raises:
        SupersededError: A later attempt was started.
        TrainingError: The disk refuses the files. Training is saved by then; the same command writes the folder again.
    """
    from safetensors import SafetensorError

    folder = spec.output
    try:
        written = engine.write_hf(folder)
        in_pod = attempt.folder()
        weights = _digests(written, folder, result) if in_pod else {}
        if is_main_rank:
            attempt.check_current()
            _finish_folder(spec, result)
            if in_pod:
                _list_files(spec, in_pod, weights)
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        raise TrainingError(
            f"{folder}: the model could not be written ({error}); {free / 2**30:.1f} GiB are free there"
        ) from error


def _digests(written: Iterable[Path], folder: Path, result: "TrainResult") -> dict[str, FileDigest]:
    """Return the digests of all processes' files; each process reads its own. Collective."""
    from steerlm.megatron.parallel import gather, is_main_rank

    if is_main_rank():
        attempt.report("checksums", result.steps)
    own = {path.relative_to(folder).as_posix(): _digest(path) for path in written}
    return {name: digest for each in gather(own) for name, digest in each.items()}


def _list_files(spec: TrainSpec, in_pod: Path, weights: Mapping[str, FileDigest]) -> None:
    """Write the list that the launcher waits for: everything in the output, and result.json."""
    paths = [path for path in spec.output.rglob("[!.]*") if path.is_file()] + [spec.work / RESULT]
    names = {os.path.relpath(path, spec.output): path for path in paths}
    rest = {name: _digest(path) for name, path in names.items() if name not in weights}
    attempt.check_current()
    write_file_list(in_pod, {**weights, **rest})


def _digest(path: Path) -> FileDigest:
    return FileDigest(sha256_file(path), path.stat().st_size)


def _finish_folder(spec: TrainSpec, result: "TrainResult") -> None:
    from steerlm.models.folder import finish_folder

    dtype = "bfloat16" if spec.settings.precision == "bf16" else "float32"
    info = _describe(spec, result)
    finish_folder(spec.output, shape=spec.shape, tokenizer_from=spec.tokenizer_folder, info=info, dtype=dtype)
    attempt.check_current()
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
