# SPDX-License-Identifier: Apache-2.0
"""`helm test`: asks the policy with two settings of its dials, and scores the answers with the reward server.

POLICY_URL and REWARD_URL say where they are; without one, the other is tested alone. KEYS_FILE is the file of API keys.
"""

import json
import math
import os
import ssl
import urllib.error
import urllib.request
from typing import Any

QUESTION = "What is a good pet?"
SECONDS = float(os.environ.get("REQUEST_SECONDS", "60"))


def headers() -> dict[str, str]:
    """Return the headers of a request: any key of the file will do."""
    found = {"content-type": "application/json"}
    if path := os.environ.get("KEYS_FILE"):
        import yaml

        with open(path, encoding="utf-8") as file:
            entry = next(iter(yaml.safe_load(file)["keys"].values()))
        found["authorization"] = f"Bearer {entry if isinstance(entry, str) else entry['key']}"
    return found


def certificates() -> ssl.SSLContext | None:
    """Return how the servers' certificate is checked: by the Secret's `ca.crt`, or not at all without one."""
    if not (folder := os.environ.get("TLS_FOLDER")):
        return None
    authority = os.path.join(folder, "ca.crt")  # noqa: PTH118
    if os.path.exists(authority):  # noqa: PTH110
        return ssl.create_default_context(cafile=authority)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON that a server answers with; its complaint ends the test."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers())
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=certificates()) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.code} {error.read().decode(errors='replace')}") from None
    except OSError as error:
        raise SystemExit(f"{url}: {error}") from None


def ask(url: str) -> list[str]:
    """Return the policy's answers with its first trained dial at its lowest and at its highest."""
    (model,) = call(f"{url}/v1/models")["data"][:1]
    schema = call(f"{url}/v1/model")["attributes"]
    if not schema:
        raise SystemExit(f"{url}: {model['id']} has no dials; policy.model is no policy")
    dial = (schema.get("trained") or schema["names"])[0]
    answers = []
    for value in (schema["low"], schema["high"]):
        body = {
            "model": model["id"],
            "messages": [{"role": "user", "content": QUESTION}],
            "attributes": {dial: value},
            "max_tokens": 16,
            "temperature": 0,
        }
        choice = call(f"{url}/v1/chat/completions", body)["choices"][0]
        print(f"{model['id']} {dial}:{value}  {choice['finish_reason']}  {choice['message']['content']!r}")  # noqa: T201
        answers.append(choice["message"]["content"])
    return answers


def score(url: str, answers: list[str]) -> None:
    """Score the answers, and check that there is a finite score of every attribute."""
    reply = call(f"{url}/v1/score", {"prompt": [QUESTION] * len(answers), "response": answers})
    for scores in reply["scores"]:
        if len(scores) != len(reply["attributes"]) or not all(map(math.isfinite, scores)):
            raise SystemExit(f"{url}: scores {scores} of {reply['attributes']}")
        print(reply["model"], dict(zip(reply["attributes"], scores, strict=True)))  # noqa: T201


def main() -> None:
    """Test what there is."""
    policy, reward = os.environ.get("POLICY_URL"), os.environ.get("REWARD_URL")
    answers = ask(policy) if policy else ["A dog."]
    if reward:
        score(reward, answers)


if __name__ == "__main__":
    main()
