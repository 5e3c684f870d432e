# SPDX-License-Identifier: Apache-2.0
"""`POST /classify` as vLLM has it for the same reward folder: raw scores under the name `probs`.

The input is texts that end with the read-out mark, token ids, or messages, which become the text that the folder's chat
template writes: the score is that of the last message.
"""

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from steerlm.errors import nearest
from steerlm.prompt import render_readout
from steerlm.serving.admission import cancel_on_disconnect
from steerlm.serving.errors import UNKNOWN, ApiError
from steerlm.serving.messages import ChatMessage
from steerlm.serving.no_effect import Harmless, has_no_effect
from steerlm.serving.prompts import PROMPTS_SCHEMA, beside_the_loop, check_token_ids, read_prompts
from steerlm.serving.score_inputs import check_marks, has_system, readout_of_messages
from steerlm.serving.scoring import ScoringService

router = APIRouter(tags=["scoring"])

ANY = ("user", "priority", "request_id", "cache_salt", "use_activation", "activation", "softmax")
"""Fields that cannot change a score: a regression head has no activation, whatever these say."""

WITHOUT_EFFECT: Harmless = {
    "add_special_tokens": (False,),
    "add_generation_prompt": (False,),
    "continue_final_message": (False,),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
}
"""Fields that are refused, except with these values."""


class ClassifyRequest(BaseModel):
    """Either `input`, a text, texts, token ids, or lists of token ids; or `messages`."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    input: Annotated[Any, WithJsonSchema(PROMPTS_SCHEMA)] = None
    messages: list[ChatMessage] | None = None


@router.post("/classify", summary="Raw scores as vLLM's route of this name returns them", responses=UNKNOWN)
async def classify(request: Request, body: ClassifyRequest) -> dict[str, Any]:
    """Score texts, token ids or the last of the messages."""
    service: ScoringService = request.app.state.service
    service.check_model(body.model)
    _check_fields(body.model_extra or {})
    if (body.input is None) == (body.messages is None):
        raise ApiError("give either input or messages", param="input")
    if body.messages is not None:
        conversation = readout_of_messages(body.messages, strip=service.settings.strip_markers)
        last = len(conversation.conversations) - 1
        texts: list[Any] = [render_readout(conversation, last, use_system=has_system(conversation))]
        names = ["messages"]
    else:
        texts, names = read_prompts(body.input, "input")
        service.check_count(len(texts))
        pairs = [(text, name) for text, name in zip(texts, names, strict=True) if isinstance(text, str)]
        check_marks([text for text, _ in pairs], [name for _, name in pairs])
    rows = await beside_the_loop(lambda: _encode(service, texts, names), texts)
    service.check_lengths(rows, names)
    scores = (await cancel_on_disconnect(request, service.score(rows))).tolist() if rows else []
    tokens = sum(map(len, rows))
    details = {"prompt_tokens_details": None, "completion_tokens_details": None}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, **details}
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": service.name,
        "data": [
            {
                "index": index,
                "label": service.schema.names[row.index(max(row))],
                "probs": row,
                "num_classes": len(row),
            }
            for index, row in enumerate(scores)
        ],
        "usage": usage,
    }


def _check_fields(extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        if name in ANY or has_no_effect(name, value, WITHOUT_EFFECT):
            continue
        if name in WITHOUT_EFFECT:
            raise ApiError(f"{name} is not supported by this server; remove it", param=name)
        raise ApiError(f"unknown field {name!r}{nearest(name, ClassifyRequest.model_fields)}", param=name)


def _encode(service: ScoringService, texts: list[Any], names: list[str]) -> list[list[int]]:
    rows = []
    for text, name in zip(texts, names, strict=True):
        (row,) = service.encode([text]) if isinstance(text, str) else [text]
        if not row:
            raise ApiError(f"{name} is empty; a score is read at its last token", param=name)
        check_token_ids(row, service.vocabulary_size, name)
        rows.append(row)
    return rows
