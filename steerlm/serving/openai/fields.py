# SPDX-License-Identifier: Apache-2.0
"""Fields of requests that have no effect here. All others are used or refused: none that could matter is lost.

docs/serving.md has the same tables; a test compares them, and goes over the fields of the `openai` client.
"""

from collections.abc import Collection, Mapping
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import nearest
from steerlm.serving.dials import is_dial, misplaced
from steerlm.serving.errors import ApiError
from steerlm.serving.no_effect import Harmless, has_no_effect

IGNORED = {
    "user": "names who asks",
    "safety_identifier": "names who asks",
    "metadata": "is kept beside a stored answer; nothing is stored",
    "store": "nothing is stored",
    "service_tier": "there is one queue for all",
    "priority": "there is one queue for all",
    "request_id": "is the client's own",
    "prompt_cache_key": "a cache of prompts changes no answer",
    "prompt_cache_options": "a cache of prompts changes no answer",
    "prompt_cache_retention": "a cache of prompts changes no answer",
    "cache_salt": "a cache of prompts changes no answer",
    "prediction": "a guess of the answer can only save time",
    "parallel_tool_calls": "there are no tools",
}
"""Fields that may have any value, and why they cannot change the answer."""

WITHOUT_EFFECT: Harmless = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "include_reasoning": (True, False),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "suffix": ("",),
    "echo": (False,),
    "chat_template": (),
    "documents": ([],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "min_p": (0,),
    "typical_p": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "kv_transfer_params": (),
    "vllm_xargs": ({},),
}
"""Fields that are refused, except with these values, which ask for what happens anyway."""

ELSEWHERE = {
    "extra_body": "extra_body is an argument of the openai client; in a request its contents stand beside messages",
    "messages": "messages are sent to /v1/chat/completions",
    "prompt": "a prompt is sent to /v1/completions; here its text is the content of a user message",
    "input": "the text is the content of a user message in messages",
    "max_completion_tokens": "on this route it is called max_tokens",
}
"""What is said of fields of other interfaces."""


def check_extra(extra: Mapping[str, Any], known: Collection[str], schema: AttributeSchema | None, place: str) -> None:
    """Refuse the fields of a request that are not `known` and could change the answer.

    Args:
        extra: The other fields.
        known: The route's own fields.
        schema: The model's attributes.
        place: Where dials go, for the message of a misplaced one.

    Raises:
        ApiError: Naming the first such field, with the place it belongs to.
    """
    for name, value in extra.items():
        if name in IGNORED or has_no_effect(name, value, WITHOUT_EFFECT):
            continue
        if name in WITHOUT_EFFECT and not (schema and name in schema.names and isinstance(value, int)):
            raise ApiError(f"{name} is not supported by this server; remove it", param=name)
        if name in ELSEWHERE:
            raise ApiError(f"{name!r} is not a field of this route: {ELSEWHERE[name]}", param=name)
        if is_dial(name, schema):
            raise ApiError(misplaced(name, schema, known, place), param=name)
        fields = [*known, *IGNORED, *WITHOUT_EFFECT]
        hint = nearest(name, fields)
        hint = hint if "mean" in hint else "; fields that could change the answer are not ignored: remove it"
        raise ApiError(f"unknown field {name!r}{hint}", param=name)
