# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's two generation routes ask for alike: sampling, limits, streaming, and what is not offered.

Unknown fields are ignored, as by other servers; fields that would change the answer and are not offered are refused.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from steerlm.errors import nearest
from steerlm.inference.engine.sampling import Sampling
from steerlm.serving.chat_prompt import stops
from steerlm.serving.errors import ApiError

MAX_ANSWERS = 128
"""Answers to one request."""

MOST_LOGPROBS = 20

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "chat_template": (None,),
    "best_of": (None, 1),
    "suffix": (None, ""),
}
"""Fields that are not offered, with the values that ask for nothing."""


class StreamOptions(BaseModel):
    include_usage: bool = False


class Asking(BaseModel):
    """Beside OpenAI's fields: `top_k`, `min_tokens`, `repetition_penalty` as other servers have them."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, lt=1 << 31)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self, served: str) -> None:
        """Raise `ApiError` for another model than the one `served`, and for what is not offered."""
        if self.model is not None and self.model != served:
            raise ApiError(f"no model {self.model!r} here{nearest(self.model, [served])}", param="model", status=404)
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value not in NEUTRAL[name]:
                raise ApiError(f"{name} is not offered by this server; leave it out", param=name)
        if self.stop is not None and not all([self.stop] if isinstance(self.stop, str) else self.stop):
            raise ApiError("a stop string is empty", param="stop")

    def sampling(self, max_tokens: int, logprobs: int | None) -> Sampling:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            min_tokens=self.min_tokens or 0,
            seed=self.seed,
            stop=stops(stop),
            logprobs=logprobs,
        )
