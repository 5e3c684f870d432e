# SPDX-License-Identifier: Apache-2.0
"""What every source declares: its settings, how it is prepared, its command's options and the rows it recognizes.

A source is one module in this package with one `SourceType`; `registry.py` lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import Field, PositiveInt

from steerlm.attributes import AttributeSchema
from steerlm.datasets.outputs import OnError, Summary
from steerlm.datasets.raw_files import LINE_FORMATS, split_files
from steerlm.settings import Settings


@dataclass(frozen=True)
class CommandOption:
    """How a field of the settings appears as an option of the source's command; put it into the field's `Annotated`.

    Attributes:
        help: The option's help.
        flags: Its spellings, the one shown first first.
        type: The option's type where the command line needs another than the field's.
        convert: Turns the option's value into the field's.
    """

    help: str
    flags: tuple[str, ...]
    type: Any = None
    convert: Callable[[Any], Any] | None = None


Uri = Annotated[
    str,
    Field(min_length=1),
    CommandOption("A hub dataset owner/name[@revision], a local file or folder, or an s3:// URI.", ("--source",)),
]


class SourceSettings(Settings):
    """`source`: a hub dataset `owner/name[@revision]`, a local file or folder, or an `s3://` URI."""

    formats: ClassVar[tuple[str, ...]] = LINE_FORMATS
    """Endings of the files that are read, the preferred one first."""

    source: Uri
    repeat: PositiveInt = 1
    """How many times in a row each training line is written when sources are merged; validation never repeats."""
    kind: str

    def patterns(self) -> tuple[str, ...]:
        """Return the patterns of the files that are downloaded from a hub dataset."""
        return ("train*", "val*", "data/train*", "data/val*")

    def files(self) -> dict[str, list[Path]]:
        """Return the files of a local source in reading order, by split: `TRAIN`, `VAL`, or `BOTH` if rows decide."""
        return split_files(Path(self.source), self.formats)


SettingsT = TypeVar("SettingsT", bound=SourceSettings)
PreparedT = TypeVar("PreparedT", bound=SourceSettings, contravariant=True)


class Prepare(Protocol[PreparedT]):
    """Writes `train.jsonl` and `val.jsonl` of a source into a folder."""

    def __call__(
        self, settings: PreparedT, folder: Path, /, *, schema: AttributeSchema, on_error: OnError = "fail"
    ) -> Summary:
        """Write both splits and return their counts; `RecordError` for a bad line unless `on_error` is `skip`."""


@dataclass(frozen=True)
class RawForm:
    """A form of rows that a source reads.

    Attributes:
        name: Completes "looks like ...".
        matches: Whether a row has this form.
        command: The `steerlm data` command that converts the file `{file}`.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    command: str


@dataclass(frozen=True)
class SourceType(Generic[SettingsT]):
    """An entry of the table of sources.

    Attributes:
        settings: The settings; their field `kind` is the source's name in a recipe.
        prepare: Writes the source's conversations.
        summary: What the source is, in a few words, for the documentation.
        help: The help of `steerlm data KIND`; None if the source has no command.
        forms: The raw forms it reads, for hints where conversations are expected.
    """

    settings: type[SettingsT]
    prepare: Prepare[SettingsT]
    summary: str
    help: str | None = None
    forms: tuple[RawForm, ...] = ()

    @property
    def kind(self) -> str:
        """The source's name in a recipe."""
        return str(self.settings.model_fields["kind"].default)


def has_keys(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a test for rows that have all these keys."""
    return lambda row: row.keys() >= set(names)
