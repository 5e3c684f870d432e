# SPDX-License-Identifier: Apache-2.0
"""HTTP client for served models: the tutorial's two functions and the requests of `steerlm ask`.

Needs only the base installation: no torch, no HTTP package (docs/upstream.md#client-snippet).
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from steerlm.attributes import AttributeSchema, format_labels
from steerlm.errors import InputError, SteerLMError, shown
from steerlm.prompt import TURN_MARK, USER, marks_in, render_prompt
from steerlm.records import Turn

TIMEOUT = 600.0
"""Seconds to wait for a reply; a long answer from a large model takes minutes."""

KEY_VARIABLE = "STEERLM_API_KEY"
"""Environment variable with the API key for servers that ask for one."""


class KeyRefusedError(InputError):
    """A server asks for an API key."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url}: the server asks for an API key: set {KEY_VARIABLE} to one of its keys")


def authorization() -> dict[str, str]:
    """Return the header with the API key of the environment; empty without one."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def encode_labels(labels: Mapping[str, float]) -> str:
    """Return a label string, `name:value` joined with commas in the mapping's order.

    >>> encode_labels({"quality": 4, "toxicity": 0})
    'quality:4,toxicity:0'
    """
    return format_labels(labels)


def get_answer(question: str, max_tokens: int, values: str, eval_port: int = 1427) -> str:
    """Return the greedy answer of a model served on this machine, without the mark of the next turn.

    Args:
        question: The user's message.
        max_tokens: Maximum length of the answer.
        values: Label string, inserted into the prompt unchanged. It should contain every attribute of the model in
            the model's order; missing attributes are not filled in with defaults.
        eval_port: Port of the server.

    Raises:
        InputError: The question contains a mark of the template, or the server rejects the request.
        SteerLMError: The server cannot be reached.
    """
    if marks := marks_in(question):
        raise InputError(f"the question contains the marker {marks[0]}, which is reserved by the model's template")
    prompt = render_prompt([Turn(value=question, speaker=USER)], values)
    body = {
        "sentences": [prompt],
        "tokens_to_generate": max_tokens,
        "top_k": 1,
        "greedy": True,
        "end_strings": [TURN_MARK],
    }
    reply = request_json(f"http://localhost:{eval_port}/generate", body, method="PUT")
    answer: str = reply["sentences"][0][len(prompt) :]
    return answer.removesuffix(TURN_MARK).removesuffix("\n")


def base_url(url: str) -> str:
    """Return the address of a server as routes are added to it: with a scheme, without `/v1`.

    >>> base_url("localhost:1427/v1/")
    'http://localhost:1427'
    """
    address = url.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    return address if "://" in address else f"http://{address}"


def describe(url: str) -> dict[str, Any]:
    """Return a server's model description: `id`, `kind`, `attributes` (the schema as a mapping, or None), `window`.

    A server of another program that speaks OpenAI's protocol has the kind "other", and its attributes are unknown.

    Raises:
        InputError: The server is neither.
        SteerLMError: The server cannot be reached.
    """
    address = base_url(url)
    try:
        description = request_json(f"{address}/v1/model")
        if "kind" in description:
            return description
    except KeyRefusedError:
        raise
    except InputError:
        pass  # no such route
    try:
        return {"id": request_json(f"{address}/v1/models")["data"][0]["id"], "kind": "other", "attributes": None}
    except (InputError, LookupError, TypeError):
        raise InputError(
            f"{address} answers, but not as a server of models: expected the address of steerlm serve generate, or of "
            "another server with OpenAI's routes"
        ) from None


class Chat(Protocol):
    """A chat with a model, wherever it runs.

    Attributes:
        schema: The model's attributes; None if it has none, or if only the server knows them.
        checks_attributes: Whether `schema` is all there is to know about the model's attributes.
    """

    schema: AttributeSchema | None
    checks_attributes: bool

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        attributes: Mapping[str, int],
        sampling: Mapping[str, Any],
        write: Callable[[str], None],
    ) -> dict[str, int]:
        """Write the answer to `messages` as it is generated; return the attributes it was generated with.

        Raises:
            InputError: The model refuses a message or an attribute, or the prompt does not fit its window.
            SteerLMError: The model's server fails.
        """
        ...


class ServedChat:
    """A chat with the model of a server."""

    def __init__(self, url: str, preset: str | None = None) -> None:
        """Find out what the server has.

        Args:
            url: Its address.
            preset: One of its presets, which sets the dials that a request leaves open.

        Raises:
            InputError: It is a reward server, or no server of models, or has no such preset.
            SteerLMError: The server cannot be reached.
        """
        self._url = base_url(url)
        model = describe(self._url)
        if model["kind"] == "reward":
            raise InputError(
                f"{self._url} serves the reward model {model['id']!r}, which scores answers and gives none; ask a "
                f"server started with steerlm serve generate, and score with POST {self._url}/v1/score"
            )
        self._name, attributes = model["id"], model["attributes"]
        if preset is not None:
            if model["kind"] != "other":
                _check_preset(preset, model.get("presets") or {}, self._url)
            self._name = f"{self._name}:{preset}"
        self.schema = AttributeSchema.model_validate(attributes) if attributes else None
        self.checks_attributes = model["kind"] != "other"

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        attributes: Mapping[str, int],
        sampling: Mapping[str, Any],
        write: Callable[[str], None],
    ) -> dict[str, int]:
        """See `Chat.answer`."""
        body = {"model": self._name, "messages": messages, **sampling}
        if attributes:
            body["chat_template_kwargs"] = {"attributes": attributes}
        used: dict[str, int] = {}
        for chunk in stream_chat(self._url, body):
            used = chunk.get("steerlm", {}).get("attributes", used)
            for choice in chunk["choices"]:
                write(choice["delta"].get("content") or "")
        return used


def _check_preset(preset: str, presets: Mapping[str, Any], url: str) -> None:
    if not presets:
        raise InputError(f"{url} has no presets; its server takes them with steerlm serve generate --presets FILE")
    if preset not in presets:
        raise InputError(f"{url} has no preset {preset!r}; it has {', '.join(presets)}")


def stream_chat(url: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a streamed chat completion as they arrive.

    Raises:
        InputError: The server rejects the request.
        SteerLMError: The server cannot be reached, or fails before the stream is complete.
    """
    with _open(f"{base_url(url)}/v1/chat/completions", {**body, "stream": True}, "POST") as reply:
        for line in reply:
            data = line.decode().strip().removeprefix("data: ")
            if data == "[DONE]":
                return
            if data:
                chunk = json.loads(data)
                if "error" in chunk:
                    raise SteerLMError(chunk["error"]["message"])
                yield chunk
    raise SteerLMError(f"{url}: the server closed the connection before the answer was complete")


def request_json(url: str, body: Mapping[str, Any] | None = None, method: str = "GET") -> dict[str, Any]:
    """Send a request and return the JSON object of the reply.

    Raises:
        InputError: The server rejects the request (4xx other than 429), or the reply is not a JSON object.
        SteerLMError: The server cannot be reached, is busy (429) or fails.
    """
    with _open(url, body, method) as reply:
        text = reply.read()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{url}: expected a JSON object from the server, got {shown(text.decode(errors='replace'))}")
    return value


def _open(url: str, body: Mapping[str, Any] | None, method: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **authorization()}
    request = urllib.request.Request(url, data, headers, method=method)
    # Without a proxy: the address is the user's own server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise KeyRefusedError(url) from None
        # 429 means a full queue, not a bad request.
        kind = InputError if error.code < 500 and error.code != 429 else SteerLMError
        raise kind(_message(error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SteerLMError(f"no answer from {url} ({reason}); start one with: steerlm serve generate MODEL") from None


def _message(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.url}: HTTP {error.code}: {text[:200]}"
