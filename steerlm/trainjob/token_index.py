# SPDX-License-Identifier: Apache-2.0
"""Builds the token indexes of a training before its job starts: `python -m steerlm.trainjob.token_index SPEC.json`.

Tokenizing takes a minute to half an hour, during which a job would hold its devices. So the launcher does it, which
needs neither torch nor a device, and names the indexes in the spec; the job's processes open them without hashing the
data. `steerlm run` and `steerlm train` do this by themselves; the command is for specs written by hand that several
machines share.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.dropped import Dropped
from steerlm.errors import ConfigError, SteerLMError
from steerlm.training.schedule import check_steps
from steerlm.trainjob.spec import TOKENS, TokenIndex, TrainSpec
from steerlm.visibility import launchers_files_seconds

if TYPE_CHECKING:
    from steerlm.training.dataset import TokenDataset
    from steerlm.training.engine import Objective

log = logging.getLogger(__name__)


def build_indexes(spec: TrainSpec, report_progress: Callable[[str], None]) -> TrainSpec:
    """Build the token indexes of a spec's files and return the spec with their keys.

    Raises:
        RecordError: The objective refuses a record; the message names file and line.
        InputError: A file has no usable record, or more of its records are dropped than `max_dropped` allows.
        ConfigError: The data make fewer steps than the schedule needs.
    """
    from steerlm.training.dataset import TokenDataset

    objective, layout = spec.make_objective(), spec.layout
    processes = layout.threads * layout.devices if layout.threads else None

    def build(paths: Sequence[Path]) -> TokenDataset:
        dataset = TokenDataset.build(paths, objective, spec.work / TOKENS, report_progress, processes)
        left_out = _check_dropped(spec, paths, dataset, report_progress)
        if left_out.much:
            log.warning("%s", left_out)
        return dataset

    train = build(spec.train)
    check_steps(spec.settings, len(train))
    validation = build(spec.validation).key if spec.validation else None
    return spec.model_copy(update={"index": TokenIndex(train=train.key, validation=validation)})


def _check_dropped(
    spec: TrainSpec, paths: Sequence[Path], dataset: "TokenDataset", report_progress: Callable[[str], None]
) -> Dropped:
    """Say and return what the index leaves out of its files. Raises `InputError` if that is too much."""
    where = ", ".join(dict.fromkeys(map(str, paths)))
    left_out = Dropped.from_counts(where, dataset.counts, spec.entry.records)
    remedy = "raise window or set over_long: keep_end" if dataset.counts.get("dropped_over_long") else "mend the data"
    left_out.check(spec.settings.max_dropped, f"{spec.entry.section}.max_dropped", remedy)
    if left_out.number:
        report_progress(f"warning: {left_out}" if left_out.much else str(left_out))
    return left_out


def open_indexes(spec: TrainSpec, objective: "Objective") -> tuple["TokenDataset", "TokenDataset | None"]:
    """Open the token indexes of the training and validation files, in a process of the job.

    Call it before joining a process group, so that no process waits in a collective. Normally the launcher has built
    the indexes. If not, as for a spec written by hand, one process of this machine builds them and the others wait.

    Raises:
        ConfigError: An index is missing and there are several nodes: each would build it while all devices wait.
        InputError: More records are dropped than `max_dropped` allows.
    """
    from steerlm.training.dataset import TokenDataset

    cache = spec.work / TOKENS

    def dataset(key: str | None, paths: Sequence[Path]) -> "TokenDataset":
        opened = TokenDataset.open(key, paths, objective, cache, launchers_files_seconds()) if key else None
        if opened is None and spec.layout.nodes > 1:
            problem = "missing, or built from other data or settings" if key else "not named in the spec"
            raise ConfigError(
                f"{cache}: the token index of {', '.join(map(str, paths))} is {problem}; on one machine that sees this "
                "folder run `python -m steerlm.trainjob.token_index SPEC.json` before the job"
            )
        return opened if opened is not None else TokenDataset.build(paths, objective, cache)

    train = dataset(spec.index.train, spec.train)
    validation = dataset(spec.index.validation, spec.validation) if spec.validation else None
    _check_dropped(spec, spec.train, train, log.info)
    if validation is not None:
        _check_dropped(spec, spec.validation, validation, log.info)
    return train, validation


def main(arguments: Sequence[str]) -> None:
    """Check a spec, build its indexes and write their keys into it."""
    if len(arguments) != 1:
        raise ConfigError("usage: python -m steerlm.trainjob.token_index SPEC.json")
    from steerlm.trainjob.preflight import check_training

    path = Path(arguments[0])
    spec = TrainSpec.read(path)
    if spec.names_model:
        check_training(spec)
    build_indexes(spec, log.info).write(path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        main(sys.argv[1:])
    except SteerLMError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
