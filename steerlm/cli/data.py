# SPDX-License-Identifier: Apache-2.0
"""`steerlm data`: a command for each source, and convert, regression, merge, check, collect; thin over its package."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steerlm.cli.source_options import option_parameters, settings_from, with_signature
from steerlm.datasets.config import read_schema
from steerlm.datasets.sources.base import SourceType
from steerlm.datasets.sources.messages import MessagesSource
from steerlm.datasets.sources.registry import SOURCES

if TYPE_CHECKING:
    from steerlm.datasets.check import CheckReport
    from steerlm.datasets.outputs import Summary

app = typer.Typer(
    no_args_is_help=True,
    help="Prepare, merge, convert and check conversation data.\n\n"
    "Example: steerlm data oasst --output_directory data/oasst",
)


class OnError(StrEnum):
    """Whether a bad line ends the command or is skipped."""

    fail = "fail"
    skip = "skip"


_Directory = typer.Option(
    ...,
    "--output_directory",
    "--output-directory",
    "-dir",
    help="Folder for train.jsonl and val.jsonl.",
    show_default=False,
)
_Input = "Chat rows: a file (.jsonl, .json, .csv, .parquet), a saved dataset's folder, a hub dataset, an s3:// URI."
_Output = typer.Option(
    ..., "--output", "--output-file", "--output_file", help="The conversations (.jsonl).", show_default=False
)
_OnError = typer.Option(
    OnError.fail, "--on-error", "--on_error", help="skip: count bad lines and write them to *.rejects.jsonl."
)
_CONVERT_HELP = (
    "Convert chat rows to conversations, and ratings to labels. Rows are messages, prompt and completion, ShareGPT or "
    "CSV.\n\n"
    "Example: steerlm data convert ratings.csv --output conversations.jsonl --scale-from 1 10"
)
_Attributes = typer.Option(
    None, "--attributes", help="A recipe, or a file of its attributes: names, low, high.", show_default=False
)


def _shared(name: str, annotation: Any, option: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def _add_source(source: SourceType[Any]) -> None:
    """Add the command that prepares a source, `steerlm data KIND`."""

    def command(output_directory: Path, attribute_file: Path | None, on_error: OnError, **options: Any) -> None:
        settings = settings_from(source.settings, options)
        with _naming_local_copies():
            schema = read_schema(attribute_file)
            _report(source.prepare(settings, output_directory, schema=schema, on_error=on_error.value), settings.source)

    parameters = [
        _shared("output_directory", Path, _Directory),
        *option_parameters(source.settings),
        _shared("attribute_file", Path | None, _Attributes),
        _shared("on_error", OnError, _OnError),
    ]
    app.command(source.kind, help=source.help)(with_signature(command, source.kind, parameters))


def _add_convert() -> None:
    """Add `steerlm data convert`: the source `messages` from one input into one file."""

    def convert(input_: str, output: Path, attribute_file: Path | None, on_error: OnError, **options: Any) -> None:
        from steerlm.datasets.sources.messages import convert_messages

        settings = settings_from(MessagesSource, {"source": input_, **options})
        with _naming_local_copies():
            schema = read_schema(attribute_file)
            _report(convert_messages(settings, output, schema=schema, on_error=on_error.value), settings.source)

    parameters = [
        _shared("input_", str, typer.Argument(..., metavar="INPUT", help=_Input, show_default=False)),
        _shared("output", Path, _Output),
        *option_parameters(MessagesSource, without=("source",)),
        _shared("attribute_file", Path | None, _Attributes),
        _shared("on_error", OnError, _OnError),
    ]
    app.command("convert", help=_CONVERT_HELP)(with_signature(convert, "convert", parameters))


for _source in SOURCES.values():
    if _source.help:
        _add_source(_source)
_add_convert()


@app.command()
def regression(
    input_file: Path = typer.Option(
        ..., "--input-file", "--input_file", help="Conversations (.jsonl[.gz]).", show_default=False
    ),
    output_file: Path = typer.Option(
        ..., "--output-file", "--output_file", help="The reward model's samples (.jsonl).", show_default=False
    ),
    use_system: bool = typer.Option(
        False,
        "--use-system",
        "--use_system",
        help="Keep each record's own system prompt (default: upstream's constant).",
    ),
    attributes: Path | None = _Attributes,
    on_error: OnError = _OnError,
) -> None:
    """Make the reward model's samples of conversations. A sample is a text with its label vector.

    Example: steerlm data regression --input-file data/oasst/train.jsonl --output-file data/oasst/train_reg.jsonl
    """
    from steerlm.datasets.regression import write_regression

    summary = write_regression(
        input_file,
        output_file,
        schema=read_schema(attributes),
        use_system=use_system,
        on_error=on_error.value,
        may_be_empty=False,
    )
    _report(summary, input_file)


@app.command()
def merge(
    inputs: list[Path] = typer.Argument(..., help="JSONL files of one kind (.jsonl[.gz]).", show_default=False),
    output_file: Path = typer.Option(
        ..., "--output-file", "--output_file", help="The merged file.", show_default=False
    ),
    repeat: int = typer.Option(1, "--repeat", min=1, help="Write each line this many times in a row (a a b b)."),
    epochs: int = typer.Option(1, "--epochs", min=1, help="Write all lines this many times in sequence (a b a b)."),
    on_error: OnError = _OnError,
) -> None:
    """Join files of conversations or of samples. Lines are copied as they are.

    Example: steerlm data merge oasst/train.jsonl helpsteer/train.jsonl --output-file train.jsonl --repeat 4
    """
    from steerlm.datasets.merge import merge as merge_files

    _report(merge_files(inputs, output_file, repeat=repeat, epochs=epochs, on_error=on_error.value), output_file)


@app.command()
def check(
    file: Path = typer.Argument(..., help="Conversations (.jsonl[.gz]).", show_default=False),
    tokenizer: Path | None = typer.Option(None, "--tokenizer", help="Model folder; count lengths in its tokens."),
    window: int | None = typer.Option(None, "--window", min=1, help="Window; longer texts are counted."),
    attributes: Path | None = _Attributes,
    strict: bool = typer.Option(
        False, "--strict", help="Also fail for labels that are out of range, fractional or not in the schema."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """Check a file of conversations. Counts labels, lengths, unlabeled answers and duplicates.

    Example: steerlm data check data/oasst/train.jsonl --tokenizer models/llama --window 4096
    """
    from steerlm.datasets.check import check as check_file
    from steerlm.errors import InputError

    loaded = None
    if tokenizer is not None:
        from steerlm.models.folder import load_tokenizer

        loaded = load_tokenizer(tokenizer)
    report = check_file(file, schema=read_schema(attributes), tokenizer=loaded, window=window)
    typer.echo(report.model_dump_json(indent=2) if as_json else _table(report))
    if report.invalid:
        hint = f"; it {report.looks_like}" if report.looks_like else ""
        raise InputError(f"{report.invalid:,} invalid lines; the first: {report.invalid_lines[0]}{hint}")
    if not report.conversations:
        raise InputError(f"{file}: contains no conversations")
    if strict and (problems := report.label_problems()):
        raise InputError(f"{file}: {'; '.join(problems)}")


@app.command()
def collect(
    ratings: str = typer.Argument(
        ..., help="Where the studio appends ratings: a folder or s3://bucket/prefix.", show_default=False
    ),
    output: str = typer.Option(
        ..., "--output", help="Store of the dataset: a folder or s3://bucket/prefix.", show_default=False
    ),
    attributes: Path | None = _Attributes,
    validation_share: float = typer.Option(
        0.1, "--validation-share", min=0.0, max=1.0, help="Share of the questions whose answers validate."
    ),
) -> None:
    """Make a dataset of ratings. Of a person's ratings of one answer the latest counts; equal ratings, equal digest.

    Example: steerlm data collect s3://steerlm/ratings --output s3://steerlm/store
    """
    from steerlm.datasets.collect import collect as collect_ratings

    made = collect_ratings(ratings, output, schema=read_schema(attributes), validation_share=validation_share)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"{made.ratings:,} ratings and {made.preferences:,} preferences of {made.people:,} people; "
        f"replaced by a later one {made.replaced:,}"
    )
    files = made.artifact.manifest.content.files
    for name in sorted(files):
        typer.echo(f"  {made.artifact.uri}/{made.artifact.kind}/{name}")
    typer.echo(f"digest {made.artifact.digest}")


@contextmanager
def _naming_local_copies() -> Iterator[None]:
    """Add to the error of an unreachable source that a local copy can be used."""
    from steerlm.errors import SourceUnreachableError, StorageError

    try:
        yield
    except SourceUnreachableError as error:
        raise StorageError(f"{error}; pass a local copy with --source, or try again") from None


def _report(summary: "Summary", source: object) -> None:
    for note in summary.notes:
        typer.echo(f"note: {note}", err=True)
    left_out = summary.left_out(str(source))
    if left_out.much:
        typer.echo(f"warning: {left_out}", err=True)
    typer.echo(str(summary))


def _table(report: "CheckReport") -> str:
    lengths = report.lengths
    speakers = ", ".join(f"{name} {count:,}" for name, count in sorted(report.turns.items()))
    rows = [
        ("conversations", f"{report.conversations:,} ({report.duplicates:,} duplicates)"),
        ("invalid lines", f"{report.invalid:,}"),
        ("turns", speakers or "none"),
        ("answers", f"{report.answers:,}: {report.labeled_answers:,} labeled, {report.unlabeled_answers:,} without "
                    f"a label, {report.empty_labels:,} with an empty label"),
        ("no label at all", f"{report.conversations_without_label:,} conversations"),
        ("nothing to learn", f"{report.nothing_to_learn:,} conversations"),
        (lengths.unit, f"mean {lengths.mean:,} · median {lengths.median:,} · 90 % {lengths.p90:,} · "
                       f"99 % {lengths.p99:,} · longest {lengths.longest:,}"),
    ]  # fmt: skip
    if report.window is not None:
        rows.append(("over-long", f"{lengths.over_window:,} of more than {report.window:,} {lengths.unit}"))
    if report.labels_without_type:
        rows.append(("no type", f"{report.labels_without_type:,} conversations with labels; read as VALUE_TO_TEXT"))
    if report.turn_marks_in_text:
        rows.append(("marks in texts", f"{report.turn_marks_in_text:,} conversations (embedded turns?)"))
    if report.fractional:
        rows.append(("fractional", f"{report.fractional:,} labels; a reward model takes them, a policy needs whole "
                                   "numbers: annotate, or round"))  # fmt: skip
    lines = [f"{name:17} {value}" for name, value in rows]
    for name, counts in report.attributes.items():
        if counts.labeled:
            values = "  ".join(f"{value}: {counts.values[value]:,}" for value in sorted(counts.values, key=_by_number))
            outside = f"  ({counts.outside_range:,} outside the range)" if counts.outside_range else ""
            fractional = f"  ({counts.fractional:,} fractional)" if counts.fractional else ""
            unknown = "  (not in the schema)" if counts.unknown else ""
            lines.append(f"  {name:15} {counts.labeled:8,}   {values}{outside}{fractional}{unknown}")
    return "\n".join(lines + [f"  {line}" for line in report.invalid_lines])


def _by_number(value: str) -> float:
    return float("inf") if value == "other" else float(value)
