# SPDX-License-Identifier: Apache-2.0
"""`steerlm data oasst|helpsteer|helpsteer2|regression|merge|check`: thin commands over `steerlm.datasets`."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from steerlm.datasets.check import CheckReport
    from steerlm.datasets.outputs import Summary

app = typer.Typer(
    no_args_is_help=True,
    help="Prepare, merge, convert and check conversation data.\n\n"
    "Example: steerlm data oasst --output_directory data/oasst",
)


class OnError(StrEnum):
    """What a bad line does."""

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
_Source = "A hub dataset owner/name[@revision], a local file or folder, or an s3:// URI."
_OnError = typer.Option(
    OnError.fail, "--on-error", "--on_error", help="skip: count bad lines and write them to *.rejects.jsonl."
)
_Attributes = typer.Option(
    None, "--attributes", help="A recipe, or a file of its attributes: names, low, high.", show_default=False
)


@app.command()
def oasst(
    output_directory: Path = _Directory,
    source: str = typer.Option("OpenAssistant/oasst1", "--source", help=_Source),
    folds: int | None = typer.Option(None, "--folds", min=2, help="Cut the trees into so many folds instead."),
    fold: int = typer.Option(0, "--fold", min=0, help="The fold that validates, counted from 0."),
    attributes: Path | None = _Attributes,
    on_error: OnError = _OnError,
) -> None:
    """OpenAssistant: the trees dump (.jsonl[.gz]) or the flat messages; split by tree.

    Example: steerlm data oasst --output_directory data/oasst --source oasst_all.trees.jsonl.gz
    """
    from steerlm.datasets.config import OasstSource, build, read_schema
    from steerlm.datasets.oasst import prepare_oasst

    settings = build(OasstSource, source=source, folds=folds, fold=fold)
    with _other_source():
        _say(prepare_oasst(settings, output_directory, schema=read_schema(attributes), on_error=on_error.value))


@app.command()
def helpsteer(
    output_directory: Path = _Directory,
    source: str = typer.Option("nvidia/HelpSteer", "--source", help=_Source),
    attributes: Path | None = _Attributes,
    on_error: OnError = _OnError,
) -> None:
    """HelpSteer: a prompt, a response and five ratings a row.

    Example: steerlm data helpsteer --output_directory data/helpsteer
    """
    from steerlm.datasets.config import HelpSteerSource, build, read_schema
    from steerlm.datasets.helpsteer import prepare_helpsteer

    settings = build(HelpSteerSource, source=source)
    with _other_source():
        _say(prepare_helpsteer(settings, output_directory, schema=read_schema(attributes), on_error=on_error.value))


@app.command()
def helpsteer2(
    output_directory: Path = _Directory,
    source: str = typer.Option("nvidia/HelpSteer2", "--source", help=_Source),
    only_helpfulness: bool = typer.Option(
        False, "--only_helpfulness", "--only-helpfulness", "-oh", help="Label helpfulness only."
    ),
    preference: bool = typer.Option(
        False, "--preference", "-pref", help="Preference pairs: two lines a row, strength -3..3 in the first slot."
    ),
    split_embedded_turns: bool = typer.Option(
        False,
        "--split-embedded-turns",
        "--split_embedded_turns",
        help="Make the turns inside multi-turn prompts turns of their own.",
    ),
    attributes: Path | None = _Attributes,
    on_error: OnError = _OnError,
) -> None:
    """HelpSteer2, or its preference pairs.

    Example: steerlm data helpsteer2 --output_directory data/helpsteer2 --only_helpfulness
    """
    from steerlm.datasets.config import HelpSteer2Source, build, read_schema
    from steerlm.datasets.helpsteer2 import prepare_helpsteer2

    settings = build(
        HelpSteer2Source,
        source=source,
        only_helpfulness=only_helpfulness,
        preference=preference,
        split_embedded_turns=split_embedded_turns,
    )
    with _other_source():
        _say(prepare_helpsteer2(settings, output_directory, schema=read_schema(attributes), on_error=on_error.value))


@app.command()
def regression(
    input_file: Path = typer.Option(
        ..., "--input-file", "--input_file", help="Conversations (.jsonl[.gz]).", show_default=False
    ),
    output_file: Path = typer.Option(
        ..., "--output-file", "--output_file", help="The reward model's samples (.jsonl).", show_default=False
    ),
    use_system: bool = typer.Option(
        False, "--use-system", "--use_system", help="Keep each record's own system prompt (upstream puts a constant)."
    ),
    attributes: Path | None = _Attributes,
    on_error: OnError = _OnError,
) -> None:
    """Labelled conversations to texts with label vectors, the reward model's training data.

    Example: steerlm data regression --input-file data/oasst/train.jsonl --output-file data/oasst/train_reg.jsonl
    """
    from steerlm.datasets.config import read_schema
    from steerlm.datasets.regression import write_regression

    _say(
        write_regression(
            input_file,
            output_file,
            schema=read_schema(attributes),
            use_system=use_system,
            on_error=on_error.value,
            may_be_empty=False,
        )
    )


@app.command()
def merge(
    inputs: list[Path] = typer.Argument(..., help="Line files of one kind (.jsonl[.gz]).", show_default=False),
    output_file: Path = typer.Option(..., "--output-file", "--output_file", help="The result.", show_default=False),
    repeat: int = typer.Option(1, "--repeat", min=1, help="Write each line so many times in a row (a a b b)."),
    epochs: int = typer.Option(1, "--epochs", min=1, help="Write the whole so many times in sequence (a b a b)."),
    on_error: OnError = _OnError,
) -> None:
    """Join conversation files, or regression files, into one; lines are copied as they are.

    Example: steerlm data merge oasst/train.jsonl helpsteer/train.jsonl --output-file train.jsonl --repeat 4
    """
    from steerlm.datasets.merge import merge as merge_files

    _say(merge_files(inputs, output_file, repeat=repeat, epochs=epochs, on_error=on_error.value))


@app.command()
def check(
    file: Path = typer.Argument(..., help="Conversations (.jsonl[.gz]).", show_default=False),
    tokenizer: Path | None = typer.Option(None, "--tokenizer", help="Model folder: lengths in its tokens."),
    window: int | None = typer.Option(None, "--window", min=1, help="Longest text that fits; longer ones are counted."),
    attributes: Path | None = _Attributes,
    strict: bool = typer.Option(
        False, "--strict", help="Fail for labels outside the range, of other attributes, or fractional ones too."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """Validate any conversations file; count labels, lengths, unlabelled answers and duplicates.

    Example: steerlm data check data/oasst/train.jsonl --tokenizer models/llama --window 4096
    """
    from steerlm.datasets.check import check as check_file
    from steerlm.datasets.config import read_schema
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
        raise InputError(f"{file}: holds no conversation")
    if strict and (complaints := report.complaints()):
        raise InputError(f"{file}: {'; '.join(complaints)}")


@contextmanager
def _other_source() -> Iterator[None]:
    """What cannot be fetched, told with the option that names a local copy."""
    from steerlm.errors import SourceUnreachableError, StorageError

    try:
        yield
    except SourceUnreachableError as error:
        raise StorageError(f"{error}; pass a local copy with --source, or try again") from None


def _say(summary: "Summary") -> None:
    for note in summary.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(str(summary))


def _table(report: "CheckReport") -> str:
    lengths = report.lengths
    speakers = ", ".join(f"{name} {count:,}" for name, count in sorted(report.turns.items()))
    rows = [
        ("conversations", f"{report.conversations:,} ({report.duplicates:,} duplicates)"),
        ("invalid lines", f"{report.invalid:,}"),
        ("turns", speakers or "none"),
        ("answers", f"{report.answers:,}: {report.labelled_answers:,} labelled, {report.unlabelled_answers:,} without "
                    f"a label, {report.empty_labels:,} with an empty one"),
        ("no label at all", f"{report.conversations_without_label:,} conversations"),
        ("nothing to learn", f"{report.nothing_to_learn:,} conversations"),
        (lengths.unit, f"mean {lengths.mean:,} · median {lengths.median:,} · 90 % {lengths.p90:,} · "
                       f"99 % {lengths.p99:,} · longest {lengths.longest:,}"),
    ]  # fmt: skip
    if report.window is not None:
        rows.append(("over-long", f"{lengths.over_window:,} of more than {report.window:,} {lengths.unit}"))
    if report.without_masked_role:
        rows.append(("masked role", f"{report.without_masked_role:,} conversations have no turn of it"))
    if report.labels_without_type:
        rows.append(("no type", f"{report.labels_without_type:,} conversations with labels; read as VALUE_TO_TEXT"))
    if report.turn_marks_in_text:
        rows.append(("marks in texts", f"{report.turn_marks_in_text:,} conversations (embedded turns?)"))
    if report.fractional:
        rows.append(("fractional", f"{report.fractional:,} labels; a reward model takes them, a policy needs whole "
                                   "numbers: annotate, or round"))  # fmt: skip
    lines = [f"{name:17} {value}" for name, value in rows]
    for name, counts in report.attributes.items():
        if counts.labelled:
            values = "  ".join(f"{value}: {counts.values[value]:,}" for value in sorted(counts.values, key=_by_number))
            outside = f"  ({counts.outside_range:,} outside the range)" if counts.outside_range else ""
            fractional = f"  ({counts.fractional:,} fractional)" if counts.fractional else ""
            unknown = "  (not in the schema)" if counts.unknown else ""
            lines.append(f"  {name:15} {counts.labelled:8,}   {values}{outside}{fractional}{unknown}")
    return "\n".join(lines + [f"  {line}" for line in report.invalid_lines])


def _by_number(value: str) -> float:
    return float("inf") if value == "other" else float(value)
