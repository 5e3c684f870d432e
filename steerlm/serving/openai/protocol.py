# SPDX-License-Identifier: Apache-2.0
"""Request bodies of OpenAI's two generation routes: what they have in common. `fields.py` has the fields not used."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from steerlm.errors import nearest, shown
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.prompt import TURN_STOP_STRINGS
from steerlm.serving.errors import ApiError
from steerlm.serving.generation import GenerationService
from steerlm.serving.openai.fields import check_extra
from steerlm.serving.openai.response_format import ResponseFormat
from steerlm.serving.presets import Preset, model_ids

MAX_ANSWERS = 128
"""Answers to one request."""

MAX_LOGPROBS = 20

TokenId = Annotated[int, Field(ge=0)]
Stop = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})]


class StreamOptions(BaseModel):
    """Options of a stream. `include_obfuscation`: would add a field beside the answer; there is none."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = False
    include_obfuscation: bool | None = None


class GenerationBody(BaseModel):
    """Fields of both routes; besides OpenAI's, `top_k`, `min_tokens` and `repetition_penalty` as in other servers."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, lt=1 << 31)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = None
    max_tokens: int | None = Field(None, ge=1)
    stop: Stop = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    response_format: ResponseFormat = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def answers_per_prompt(self) -> int:
        """`n`, by default 1."""
        return self.n or 1

    @field_validator("stop")
    @classmethod
    def _stop_strings(cls, stop: Any) -> Any:
        strings = stop if isinstance(stop, list) else [stop]
        if stop is not None and not all(isinstance(one, str) for one in strings):
            raise ValueError(f"a string or a list of strings was expected, not {shown(stop)}")
        return stop

    def check(self, service: GenerationService, place: str) -> None:
        """Refuse what this server does not support.

        Args:
            service: What is served.
            place: Where the dials of this route's requests go.

        Raises:
            ApiError: The request is for another model, or has a field that could change the answer and is not used.
        """
        ids = model_ids(service.name, service.presets)
        if self.model is not None and self.model not in ids:
            raise ApiError(f"no model {self.model!r} here{nearest(self.model, ids)}", param="model", status=404)
        check_extra(self.model_extra or {}, type(self).model_fields, service.schema, place)
        if not all(self._stop_list):
            raise ApiError("a stop string is empty", param="stop")

    def preset(self, service: GenerationService) -> Preset | None:
        """Return the preset that `model` names; None if it names the model itself. `check` comes before."""
        return model_ids(service.name, service.presets)[self.model] if self.model else None

    @property
    def _stop_list(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling_params(self, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """Return the engine's parameters; the mark of the next turn always ends an answer.

        Args:
            max_tokens: See `SamplingParams.max_tokens`.
            logprobs: See `SamplingParams.logprobs`.
        """
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            logit_bias=self.logit_bias or {},
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            min_tokens=self.min_tokens or 0,
            seed=self.seed,
            stop=(*TURN_STOP_STRINGS, *self._stop_list),
            logprobs=logprobs,
        )
