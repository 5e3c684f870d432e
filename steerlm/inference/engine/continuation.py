# SPDX-License-Identifier: Apache-2.0
"""One continuation while it is generated: its tokens, its text, and when it ends.

Used by the server's requests and by offline generation alike.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from steerlm.errors import InputError
from steerlm.inference.engine.detokenizer import Detokenizer, Vocabulary
from steerlm.inference.engine.sampling_state import SamplingState
from steerlm.inference.engine.stop_strings import StopStringMatcher

FinishReason = Literal["stop", "length"]


class Continuation:
    """A sequence that ends at an end-of-text token, at a stop string, where its grammar ends or at its length limit.

    Its text never ends in a part of a stop string that the limit, or a canceled request, left incomplete.

    Attributes:
        state: Parameters, prompt and tokens. The tokens include those of a stop string and the end-of-text token.
        finish_reason: `stop` (end of text, of the grammar, or a stop string), `length`, or None while it grows.
    """

    def __init__(self, state: SamplingState, vocabulary: Vocabulary, end_ids: Collection[int], max_tokens: int) -> None:
        self.state, self._end_ids, self._max_tokens = state, end_ids, max_tokens
        self.finish_reason: FinishReason | None = None
        self._detokenizer = Detokenizer(vocabulary, state.prompt)
        self._stop_strings = StopStringMatcher(state.params.stop)

    @property
    def stop_string(self) -> str | None:
        """What was cut off up to the end of the stop string that ended it: most often just that string."""
        return self._stop_strings.matched

    def append(self, token: int) -> str:
        """Add a token; return the text that is final now, without a stop string."""
        self.state.append(token)
        matcher = self.state.matcher
        no_text = token in self._end_ids or (matcher is not None and matcher.closed)
        is_end = no_text or (matcher is not None and matcher.complete)
        text = self._stop_strings.push("" if no_text else self._detokenizer.push(token))
        if self.stop_string is None and (is_end or len(self.state.tokens) >= self._max_tokens):
            text += self.end("stop" if is_end else "length")
        if self.stop_string is not None:
            self.finish_reason = "stop"
        return text

    def end(self, reason: FinishReason) -> str:
        """End the text where it is; return what was held back and is a part of it."""
        self.finish_reason = reason
        text = self._stop_strings.push(self._detokenizer.flush())
        if self.stop_string is None:
            return text + self._stop_strings.finish(cut_short=reason == "length")
        self.finish_reason = "stop"
        return text


def token_limit(prompt: Sequence[int], max_tokens: int | None, window: int) -> int:
    """Return the number of tokens to generate at most.

    Args:
        prompt: Token ids.
        max_tokens: The number asked for; None: as many as the window leaves.
        window: Tokens of prompt and continuation at most.

    Raises:
        InputError: The prompt is empty, or prompt and continuation do not fit the window.
    """
    if not prompt:
        raise InputError("the prompt is empty; a model needs at least one token to continue")
    limit = max(1, window - len(prompt)) if max_tokens is None else max_tokens
    if len(prompt) + limit > window:
        raise InputError(
            f"the prompt has {len(prompt)} tokens and {limit} more are requested; the model's window is {window}"
        )
    return limit


def end_of_text_ids(model: Any) -> tuple[int, ...]:
    """Return the end-of-text ids of generation_config.json, else of config.json."""
    for config in (model.generation_config, model.config):
        ids = config.eos_token_id
        if ids is not None:
            return (ids,) if isinstance(ids, int) else tuple(ids)
    return ()
