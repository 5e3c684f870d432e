# SPDX-License-Identifier: Apache-2.0
"""`steerlm annotate`: label every answer of a corpus with a reward model, in this process or behind a server."""

import contextlib
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import typer

from steerlm.errors import InputError
from steerlm.signals import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from steerlm.annotation.job import Annotation
    from steerlm.inference.annotate import AnnotateCounts
    from steerlm.inference.config import AnnotateSettings
    from steerlm.inference.scorer import Scorer
    from steerlm.recipe import Profile

app = typer.Typer()

EPILOG = (
    "Example: steerlm annotate --input-file train.jsonl --output-file labelled.jsonl --model runs/reward\n\n"
    "Example: steerlm annotate --input-file train.jsonl --output-file labelled.jsonl --port 1424\n\n"
    "Example: steerlm annotate --input-file train.jsonl --output-file labelled.jsonl --model runs/reward"
    " --profile eight-gpus"
)


@app.command(epilog=EPILOG)
def annotate(
    input_file: Path = typer.Option(..., help="Conversations, one JSON object a line (.jsonl or .jsonl.gz)."),
    output_file: Path = typer.Option(..., help="Appears when it is complete; until then NAME.partial."),
    model: Path | None = typer.Option(None, help="A reward model folder, run in this process."),
    profile: str | None = typer.Option(
        None, help="With --model: a profile's name or a path; its layout annotate says over which processes."
    ),
    set_: list[str] = typer.Option(
        [], "--set", help="With --profile: override a setting: --set profile.layouts.annotate.devices=8 (repeatable)."
    ),
    write_spec: Path | None = typer.Option(
        None, help="With --profile: start nothing; write what torchrun labels, and print its command."
    ),
    host: str | None = typer.Option(None, help="Host or URL of a reward server (default localhost)."),
    port: int | None = typer.Option(None, help="Its port (default 1424)."),
    url: list[str] = typer.Option(
        [], "--url", help="URL of a reward server; repeat it for several of the same model, which share the texts."
    ),
    only_labelled: bool = typer.Option(
        False, "--only-labelled", help="Score the turns that have a label, not every answer (upstream's choice)."
    ),
    use_system: bool = typer.Option(
        False, "--use-system", help="Score with each record's own system prompt, not the constant one."
    ),
    over_long: Literal["error", "keep_end", "skip"] = typer.Option(
        "error", help="Texts longer than the model's window: stop, score their end, or leave the turn as it is."
    ),
    on_error: Literal["stop", "skip"] = typer.Option(
        "stop", help="Bad lines: stop, or leave them out and write them to OUTPUT.rejects."
    ),
    look_ahead: int = typer.Option(1024, min=1, help="Texts sorted by length together; a kill repeats at most these."),
    batch_tokens: int | None = typer.Option(
        None, min=1, help="With --model: tokens in a batch, padding included (default 2048 on a CPU, else 16384)."
    ),
    dtype: Literal["auto", "fp32", "bf16"] = typer.Option("auto", help="With --model: precision of the weights."),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Discard an output of the same name that other settings or another input made."
    ),
) -> None:
    """Label every answer of a corpus with a reward model.

    A turn's label becomes the prediction, gt_label keeps the human label, scores the raw values. Interrupted in any
    way, the same command goes on where it was, with any other --profile too; once complete, it does nothing.

    The output's bytes do not depend on interruptions, on the number of workers or on what else a server has to do.
    The last digits of scores may depend on the device, --dtype, tensor parallelism, batch sizes, --look-ahead, and on
    whether a process or a server scores.
    """
    from steerlm.inference.config import AnnotateSettings
    from steerlm.inference.striped import annotate_in_process

    options = AnnotateSettings(
        turns="labelled" if only_labelled else "answers",
        use_system=use_system,
        over_long=over_long,
        on_error=on_error,
        look_ahead=look_ahead,
        batch_tokens=batch_tokens,
        dtype=dtype,
    )
    if not input_file.is_file():  # said before a large model is loaded for nothing
        raise InputError(f"{input_file}: no such file")
    if (model is None) == (host is None and port is None and not url):
        raise InputError(
            "say which reward model labels: --model FOLDER, or --host and --port of a server, or its --url"
        )
    place = _place(model, profile, set_)
    with sigterm_as_ctrl_c("terminated; run the same command again to resume"):
        if model is not None and place is not None:
            from steerlm.annotation.job import Annotation

            work = Annotation([(input_file, output_file)], model, options, place.layouts.annotate)
            if write_spec is not None:
                _write_spec(work, write_spec, place, overwrite)
                return
            counts = _annotate_by_job(work, place, overwrite)
        elif write_spec is not None:
            raise InputError("--write-spec needs a --profile whose layout annotate has several processes")
        else:
            scorer = _scorer(model, host, port, url, options)
            with Progress(input_file) as progress:
                counts = annotate_in_process(input_file, output_file, scorer, options, progress, overwrite=overwrite)
    done = f"{counts.turns} turns of {counts.conversations} conversations"
    if counts.nothing_to_do:
        typer.echo(f"{output_file} is complete ({done}): nothing to do")
        return
    notes = {
        "lines were done before": counts.resumed,
        "over-long texts": counts.over_long,
        "conversations without a turn to score": counts.unscored,
        f"bad lines, in {output_file}.rejects": counts.rejected,
    }
    typer.echo(f"{output_file}: labelled {done}" + "".join(f"; {n} {what}" for what, n in notes.items() if n))


class Progress:
    """A bar over the input's lines, with turns per second, on the terminal's error stream."""

    def __init__(self, source: Path) -> None:
        from tqdm import tqdm

        from steerlm.files import open_text

        lines = None
        # A broken archive is told with its line when it is read.
        with open_text(source) as file, contextlib.suppress(OSError, EOFError, zlib.error):
            lines = sum(1 for _ in file.buffer)
        self._bar = tqdm(total=lines, unit="line", desc="annotate", disable=None)
        self._start, self._turns = time.monotonic(), -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, counts: "AnnotateCounts") -> None:
        if self._turns < 0:  # the first call tells what was done before
            self._turns, self._start = counts.turns, time.monotonic()
        rate = (counts.turns - self._turns) / max(1e-9, time.monotonic() - self._start)
        self._bar.update(counts.lines - self._bar.n)
        self._bar.set_postfix_str(f"{rate:.0f} turns/s")


def _scorer(
    model: Path | None, host: str | None, port: int | None, urls: list[str], options: "AnnotateSettings"
) -> "Scorer":
    if model is not None:
        from steerlm.inference.scorer import TransformersScorer

        return TransformersScorer(model, batch_tokens=options.batch_tokens, dtype=options.dtype)
    from steerlm.inference.http_scorer import HttpScorer, server_url

    named = [] if host is None and port is None else [server_url(host or "localhost", port or 1424)]
    return HttpScorer(urls=[*urls, *named])


def _place(model: Path | None, profile: str | None, set_: list[str]) -> "Profile | None":
    """The profile, if it asks for more than the one process that is running."""
    if profile is None:
        if set_:
            raise InputError("--set overrides a setting of a profile: give --profile too")
        return None
    if model is None:
        raise InputError("--profile says where a model folder runs: give --model, or leave --profile out")
    from steerlm.jobs.part_job import needs_job
    from steerlm.recipe import load_profile
    from steerlm.stages.annotate import check_one_gpu_holds

    found = load_profile(profile, set_)
    if needs_job(found.layouts.annotate):
        return found
    check_one_gpu_holds(model, found)
    return None


def _annotate_by_job(work: "Annotation", place: "Profile", overwrite: bool) -> "AnnotateCounts":
    from steerlm.annotation.job import annotate_by_job
    from steerlm.inference.striped import parts_folder
    from steerlm.jobs.place import JobPlace

    ((_, output),) = work.files
    folder = parts_folder(output)
    job = JobPlace("annotate", folder / "job", folder / "annotate.log", place)
    (counts,) = annotate_by_job(work, job, lambda text: typer.echo(text, err=True), overwrite=overwrite)
    return counts


def _write_spec(work: "Annotation", path: Path, place: "Profile", overwrite: bool) -> None:
    from steerlm.annotation.job import planned, torchrun
    from steerlm.files import write_json

    with planned(work, overwrite=overwrite) as passes:
        left = sum(len(one.left) for one in passes)
        write_json(path, work.spec(passes))
    typer.echo(f"{path}: {left} blocks to label; this command without --write-spec then writes the output")
    typer.echo(torchrun(work, path, place.jobs))
