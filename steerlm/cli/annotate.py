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
    from steerlm.annotation.annotate import AnnotateCounts
    from steerlm.annotation.config import AnnotateSettings
    from steerlm.annotation.job import AnnotationTask
    from steerlm.inference.scorer import Scorer
    from steerlm.recipe import Profile

app = typer.Typer()

EPILOG = (
    "Example: steerlm annotate --input-file train.jsonl --output-file labeled.jsonl --model runs/reward\n\n"
    "Example: steerlm annotate --input-file train.jsonl --output-file labeled.jsonl --port 1424\n\n"
    "Example: steerlm annotate --input-file train.jsonl --output-file labeled.jsonl --model runs/reward"
    " --profile eight-gpus"
)


@app.command(epilog=EPILOG)
def annotate(
    input_file: Path = typer.Option(..., help="Conversations, one JSON object a line (.jsonl or .jsonl.gz)."),
    output_file: Path = typer.Option(..., help="Appears when it is complete; until then NAME.partial."),
    model: Path | None = typer.Option(None, help="A reward model folder."),
    profile: str | None = typer.Option(
        None, help="With --model: a profile's name or path; its layout annotate sets the number of processes."
    ),
    set_: list[str] = typer.Option(
        [], "--set", help="With --profile: override a setting: --set profile.layouts.annotate.devices=8 (repeatable)."
    ),
    write_spec: Path | None = typer.Option(
        None, help="With --profile: write the job's spec and print its torchrun command, but do not run it."
    ),
    host: str | None = typer.Option(None, help="Host or URL of a reward server (default localhost)."),
    port: int | None = typer.Option(None, help="Its port (default 1424)."),
    url: list[str] = typer.Option(
        [], "--url", help="URL of a reward server; repeat it for several servers of the same model."
    ),
    only_labeled: bool = typer.Option(
        False, "--only-labeled", help="Score the turns that have a label, not every answer (upstream's choice)."
    ),
    use_system: bool = typer.Option(
        False, "--use-system", help="Score with each record's own system prompt, not the constant one."
    ),
    over_long: Literal["error", "keep_end", "skip"] = typer.Option(
        "error", help="Texts longer than the model's window: stop, score their end, or skip the turn."
    ),
    on_error: Literal["stop", "skip"] = typer.Option(
        "stop", help="Bad lines: stop, or skip them and write them to OUTPUT.rejects."
    ),
    look_ahead: int = typer.Option(
        1024, min=1, help="Texts sorted by length together; a kill loses at most their scores."
    ),
    batch_tokens: int | None = typer.Option(
        None, min=1, help="With --model: tokens in a batch, padding included (default 2048 on a CPU, else 16384)."
    ),
    dtype: Literal["auto", "fp32", "bf16"] = typer.Option("auto", help="With --model: precision of the weights."),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Discard an existing output of other settings or another input."
    ),
) -> None:
    """Label every answer of a corpus with a reward model.

    A turn's label becomes the prediction, gt_label keeps the human label, scores the raw values. After an interruption
    the same command resumes, with another --profile too. Once the output is complete, it does nothing.

    The output's bytes do not depend on interruptions, on the number of workers or on a server's other requests. The
    last digits of scores may depend on the device, --dtype, tensor parallelism, batch sizes, --look-ahead, and on
    whether a process or a server scores.
    """
    from steerlm.annotation.config import AnnotateSettings
    from steerlm.annotation.parallel import annotate_in_process

    options = AnnotateSettings(
        turns="labeled" if only_labeled else "answers",
        use_system=use_system,
        over_long=over_long,
        on_error=on_error,
        look_ahead=look_ahead,
        batch_tokens=batch_tokens,
        dtype=dtype,
    )
    if not input_file.is_file():  # checked before a large model is loaded
        raise InputError(f"{input_file}: no such file")
    if (model is None) == (host is None and port is None and not url):
        raise InputError("choose the reward model: --model FOLDER, or --host and --port of a server, or its --url")
    job_profile = _job_profile(model, profile, set_)
    with sigterm_as_ctrl_c("terminated; run the same command again to resume"):
        if model is not None and job_profile is not None:
            from steerlm.annotation.job import AnnotationTask

            task = AnnotationTask([(input_file, output_file)], model, options, job_profile.layouts.annotate)
            if write_spec is not None:
                _write_spec(task, write_spec, job_profile, overwrite)
                return
            counts = _annotate_by_job(task, job_profile, overwrite)
        elif write_spec is not None:
            raise InputError("--write-spec needs a --profile whose layout annotate has several processes")
        else:
            scorer = _scorer(model, host, port, url, options)
            with AnnotateProgressBar(input_file) as progress:
                counts = annotate_in_process(input_file, output_file, scorer, options, progress, overwrite=overwrite)
    if not counts.turns:
        raise InputError(f"{input_file}: no turn could be labeled: {_why_nothing(counts)}")
    total = f"{counts.turns} turns of {counts.conversations} conversations"
    if counts.nothing_to_do:
        typer.echo(f"{output_file} is complete ({total}): nothing to do")
        return
    for left_out in (counts.left_out(str(input_file)), counts.unlabeled(str(input_file))):
        if left_out.much:
            typer.echo(f"warning: {left_out}", err=True)
    notes = {
        "lines were done before": counts.resumed,
        "over-long texts": counts.over_long,
        "conversations without a turn to score": counts.unscored,
        f"bad lines, in {output_file}.rejects": counts.rejected,
    }
    typer.echo(f"{output_file}: labeled {total}" + "".join(f"; {n} {note}" for note, n in notes.items() if n))


def _why_nothing(counts: "AnnotateCounts") -> str:
    if not counts.conversations:
        return f"{counts.rejected} bad lines, no conversation"
    return (
        f"{counts.unscored} of {counts.conversations} conversations have no turn to score, "
        f"{counts.skipped} texts are longer than the window"
    )


class AnnotateProgressBar:
    """A bar over the input's lines on stderr, with turns per second. Shown on a terminal only."""

    def __init__(self, source: Path) -> None:
        from tqdm import tqdm

        from steerlm.files import open_text

        lines = None
        # A broken archive is reported with its line when it is read.
        with open_text(source) as file, contextlib.suppress(OSError, EOFError, zlib.error):
            lines = sum(1 for _ in file.buffer)
        self._bar = tqdm(total=lines, unit="line", desc="annotate", disable=None)
        self._start, self._turns = time.monotonic(), -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, counts: "AnnotateCounts") -> None:
        """Advance the bar to `counts.lines`; the rate counts only turns labeled since the first call."""
        if self._turns < 0:  # the first call has the counts of earlier runs
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


def _job_profile(model: Path | None, profile: str | None, set_: list[str]) -> "Profile | None":
    """Return the profile if it needs a job; None if this process does the work."""
    if profile is None:
        if set_:
            raise InputError("--set overrides a setting of a profile: give --profile too")
        return None
    if model is None:
        raise InputError("--profile sets where a model folder runs: give --model, or leave --profile out")
    from steerlm.jobs.part_job import needs_job
    from steerlm.recipe import load_profile
    from steerlm.stages.annotate import check_one_gpu_holds

    loaded = load_profile(profile, set_)
    if needs_job(loaded, loaded.layouts.annotate):
        return loaded
    check_one_gpu_holds(model, loaded)
    return None


def _annotate_by_job(task: "AnnotationTask", profile: "Profile", overwrite: bool) -> "AnnotateCounts":
    from steerlm.annotation.job import annotate_by_job
    from steerlm.annotation.parallel import parts_folder
    from steerlm.jobs.place import JobPlace

    ((_, output),) = task.files
    folder = parts_folder(output)
    place = JobPlace("annotate", folder / "job", folder / "annotate.log", profile)
    (counts,) = annotate_by_job(task, place, lambda text: typer.echo(text, err=True), overwrite=overwrite)
    return counts


def _write_spec(task: "AnnotationTask", path: Path, profile: "Profile", overwrite: bool) -> None:
    from steerlm.annotation.job import planned_outputs, torchrun_command
    from steerlm.files import write_json

    with planned_outputs(task, overwrite=overwrite) as outputs:
        missing = sum(len(output.missing) for output in outputs)
        if not missing:
            typer.echo(f"{outputs[0].output}: all blocks are labeled; run this command without --write-spec")
            return
        write_json(path, task.spec(outputs).model_dump(mode="json"))
    typer.echo(f"{path}: {missing} blocks to label; then run this command without --write-spec to write the output")
    typer.echo(torchrun_command(task, path, profile.jobs))
