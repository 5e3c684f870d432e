# SPDX-License-Identifier: Apache-2.0
"""Command options from a source's settings: each field with a `CommandOption` is an option."""

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from steerlm.datasets.config import build
from steerlm.datasets.sources.base import CommandOption, SettingsT, SourceSettings


def option_parameters(settings: type[SourceSettings], without: tuple[str, ...] = ()) -> list[Parameter]:
    """Return a command's parameters for the fields of `settings` that are options, in the order of the fields."""
    parameters = []
    for name, option in _options(settings):
        if name in without:
            continue
        field = settings.model_fields[name]
        default = ... if field.default is PydanticUndefined else field.default
        annotation = option.type or field.annotation
        if option.type == list[str]:
            default = []
        elif default is None and option.type:
            annotation = option.type | None
        info = typer.Option(default, *option.flags, help=option.help, show_default=default not in (None, ..., []))
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=info, annotation=annotation))
    return parameters


def settings_from(settings: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Build the settings from a command's values. Raises `InputError` with the first problem."""
    options = dict(_options(settings))
    converted = {
        name: convert(value) if (convert := options[name].convert if name in options else None) else value
        for name, value in values.items()
    }
    return build(settings, **converted)


def with_signature(function: Callable[..., None], name: str, parameters: list[Parameter]) -> Callable[..., None]:
    """Give a function of keyword arguments the name and parameters that typer shows."""
    function.__name__ = name
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return function


def _options(settings: type[SourceSettings]) -> Iterator[tuple[str, CommandOption]]:
    for name, field in settings.model_fields.items():
        for entry in field.metadata:
            if isinstance(entry, CommandOption):
                yield name, entry
