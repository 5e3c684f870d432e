# SPDX-License-Identifier: Apache-2.0
"""The parameters of a pipeline run: recipe, profile and options as JSON that no pipeline engine reads as its own.

kfp replaces `{{$...}}` in parameters, Argo any `{{...}}`, Kubernetes `$(NAME)` in the arguments of a container. Inside
JSON these characters occur in strings only and can be escaped there, so a recipe's text arrives unchanged.
"""

from pydantic import BaseModel

from steerlm.recipe import ResolvedRecipe


def engine_parameters(resolved: ResolvedRecipe) -> dict[str, str]:
    """Return the arguments of the pipeline `steerlm` by name, to run it or to submit it compiled."""
    parameters: dict[str, BaseModel] = {
        "recipe": resolved.recipe,
        "profile": resolved.profile,
        "options": resolved.options,
    }
    return {name: escape_json(value.model_dump_json()) for name, value in parameters.items()}


def escape_json(text: str) -> str:
    r"""Return equal JSON without `$` and without two opening braces in a row.

    >>> escape_json('{"description": "reads {{$.inputs}}, costs 3 $"}')
    '{"description": "reads {\\u007b\\u0024.inputs}}, costs 3 \\u0024"}'
    """
    return text.replace("{{", "{\\u007b").replace("$", "\\u0024")
