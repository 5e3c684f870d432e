# SPDX-License-Identifier: Apache-2.0
"""Reading settings: errors name file, line and key; overrides."""

from pathlib import Path
from typing import Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from steerlm.configuration import load_settings
from steerlm.errors import ConfigError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = Field(default=0.1, gt=0)
    names: tuple[str, ...] = ("a",)


class Cat(Inner):
    kind: str = "cat"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str = "x"
    inner: Inner | None = None
    many: list[Cat] = Field(default_factory=list)
    free: dict[str, int] = Field(default_factory=dict)


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return load_settings(path, Outer, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\ninner:\n  rat: 1\n", r"file\.yaml:3: unknown key 'inner\.rat'; did you mean 'inner\.rate'\?"),
        ("rate: 1\n", r":1: unknown key 'rate'; did you mean 'inner\.rate'\?"),
        ("many:\n- rate: 1\n- rtae: 2\n", r":3: unknown key 'many\.1\.rtae'; did you mean 'many\.1\.rate'\?"),
        ("zzz: 1\n", r":1: unknown key 'zzz'; known there: title, inner, many, free"),
        ("inner:\n  rate: 0\n", r":2: inner\.rate: a number above 0 was expected, not 0$"),
        ("title: a\ntitle: b\n", r":2: not valid YAML: key 'title' is given twice"),
        ("title: [\n", r":2: not valid YAML"),
        ("- a\n", "a mapping of sections was expected"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read \(No such file"):
        load_settings(tmp_path / "gone.yaml", Outer)


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    settings = load(tmp_path, "inner: {rate: 6e-6}\nfree: {a: 1}\n")
    assert settings.inner is not None
    assert settings.inner.rate == 6e-6


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("inner.rate=2e-3", lambda o: o.inner.rate, 2e-3),
        ("inner.names=[x, y]", lambda o: o.inner.names, ("x", "y")),
        ("inner.names.0=x", lambda o: o.inner.names, ("x",)),
        ("inner=null", lambda o: o.inner, None),
        ("title=a=b", lambda o: o.title, "a=b"),
        ("many.1.rate=7", lambda o: [m.rate for m in o.many], [0.1, 7]),
        ("free.new=3", lambda o: o.free, {"new": 3}),
    ],
)
def test_overrides(tmp_path: Path, override: str, get, value: object) -> None:  # type: ignore[no-untyped-def]
    text = "many: [{}, {}]\ninner: {names: [a]}\n"
    assert get(load(tmp_path, text, override)) == value


def test_an_override_creates_missing_sections(tmp_path: Path) -> None:
    settings = load(tmp_path, "inner: null\n", "inner.rate=3")
    assert settings.inner == Inner(rate=3)


def test_an_override_changes_no_other_use_of_an_anchor(tmp_path: Path) -> None:
    settings = load(tmp_path, "inner: &a {rate: 1}\nmany: [*a, {<<: *a}]\n", "inner.rate=3")
    assert [m.rate for m in settings.many] == [1, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iner.rate=1", r"--set iner\.rate: unknown key; did you mean 'inner\.rate'\?"),
        ("title.x=1", r"--set title\.x: unknown key; title has no keys"),
        ("many.2.rate=1", r"--set many\.2\.rate: many has 2 items, counted from 0; 2 is none"),
        ("inner.rate=-1", r"--set inner\.rate=-1: inner\.rate: a number above 0 was expected, not -1$"),
        ("inner.rate", r"--set inner\.rate: key=value was expected"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "many: [{}, {}]\n", override)


@pytest.mark.parametrize(
    ("text", "overrides", "blamed"),
    [
        ("{}", ["low=9"], r"^--set low=9: low 9 is above high 4$"),
        ("{low: 9}", ["title=x"], r"file\.yaml:1: low 9 is above high 4$"),
        ("{low: 9}", ["high=8"], r"file\.yaml:1: low 9 is above high 8$"),
        ("{}", ["title=x", "low=9", "high=8"], r"^--set title=x --set low=9 --set high=8: low 9 is above high 8$"),
    ],
)
def test_what_several_keys_break_is_blamed_on_the_override_that_breaks_it(
    tmp_path: Path, text: str, overrides: list[str], blamed: str
) -> None:
    class Range(BaseModel):
        title: str = ""
        low: int = 0
        high: int = 4

        @model_validator(mode="after")
        def _order(self) -> Self:
            if self.low > self.high:
                raise ValueError(f"low {self.low} is above high {self.high}")
            return self

    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=blamed):
        load_settings(path, Range, overrides)


def test_an_emoji_may_be_written_as_json_writes_it(tmp_path: Path) -> None:
    assert load(tmp_path, r'title: "by hand \ud83d\ude00"').title == "by hand \U0001f600"
    assert load(tmp_path, "{}", r'title="\ud83d\ude00"').title == "\U0001f600"
    with pytest.raises(ConfigError, match=r":2: not valid YAML: half of a character"):
        load(tmp_path, 'inner: {}\ntitle: "\\ud83d"')
    with pytest.raises(ConfigError, match=r"^--set title: the value is not UTF-8 text$"):
        load(tmp_path, "{}", "title=\udcff")
