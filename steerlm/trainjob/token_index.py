# SPDX-License-Identifier: Apache-2.0
"""Builds the token indexes of a training before its job starts: `python -m steerlm.trainjob.token_index SPEC.json`.

Tokenizing takes a minute to half an hour, in which a job would hold its devices. Whoever starts the job does it
instead, needing neither torch nor a device, and names the indexes in the spec, so that the job's processes open them
without hashing the data. `steerlm run` and `steerlm train` do so by themselves; the command is for specs written by
hand that several machines share.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, SteerLMError
from steerlm.files import write_json
from steerlm.trainjob.worker import SETTINGS, TOKENS, TokenIndex, TrainSpec, make_objective, read_spec

log = logging.getLogger(__name__)


def with_index(spec: Mapping[str, Any], report_progress: Callable[[str], None]) -> dict[str, Any]:
    """The worker's SPEC.json with its indexes built and named; `report_progress` gets lines of progress.

    Raises `RecordError` naming file and line for a record that the objective refuses, `InputError` if nothing is left.
    """
    settings = SETTINGS[spec["objective"]].model_validate(spec["settings"])
    return _named(spec, TrainSpec.model_validate({**spec, "settings": settings}), report_progress)


def _named(raw: Mapping[str, Any], spec: TrainSpec, report_progress: Callable[[str], None]) -> dict[str, Any]:
    from steerlm.training.dataset import TokenDataset

    objective = make_objective(spec.settings, spec.attributes or AttributeSchema(), spec.tokenizer_folder)
    layout = spec.layout
    processes = layout.threads * layout.devices if layout.threads else None

    def key(paths: Sequence[Path]) -> str | None:
        return (
            TokenDataset.build(paths, objective, spec.work / TOKENS, report_progress, processes).key if paths else None
        )

    return {**raw, "index": TokenIndex(train=key(spec.train), validation=key(spec.validation)).model_dump()}


def main(arguments: Sequence[str]) -> None:
    """Build the indexes of a spec and name them in it."""
    if len(arguments) != 1:
        raise ConfigError("usage: python -m steerlm.trainjob.token_index SPEC.json")
    path = Path(arguments[0])
    spec = read_spec(path)
    write_json(path, _named(json.loads(path.read_text(encoding="utf-8")), spec, log.info))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        main(sys.argv[1:])
    except SteerLMError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
