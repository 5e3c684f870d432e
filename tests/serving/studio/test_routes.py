# SPDX-License-Identifier: Apache-2.0
"""What the studio asks its server beside the model's own routes: descriptions, scores, ratings, preferences."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.datasets.check import check
from steerlm.datasets.rating_folder import rating_files
from steerlm.datasets.ratings import RatedConversation, read_rating
from steerlm.errors import ConfigError
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.serving.conftest import SCHEMA
from tests.serving.operations.conftest import ALICE, BOB, bearer
from tests.serving.operations.conftest import keys as keys

QUESTION = [{"role": "user", "content": "What is a good pet?"}]
TALK = [*QUESTION, {"role": "assistant", "content": "A dog."}, {"role": "user", "content": "And a bad one?"}]
RATING = {
    "by": " Anna ",
    "messages": QUESTION,
    "answer": {"text": "A dog.", "asked": {"humor": 3}},
    "labels": {"humor": 0, "quality": 4},
}
NAMELESS = {name: value for name, value in RATING.items() if name != "by"}
PREFERENCE = {"by": "Bo", "messages": TALK, "answers": [{"text": "A cat."}, {"text": "A bat."}], "strength": -2}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ratings")


@pytest.fixture(scope="module")
def url(policy_folder: Path, reward_server: str, kept: Path, serving: Callable[..., Any]) -> Iterator[str]:
    with serving(policy_folder, "generate", ratings=str(kept), reward_server={"url": reward_server}) as (url, _):
        yield url


def newest(folder: Path) -> list[RatedConversation]:
    with rating_files(folder) as files:
        name = max(files)
        assert check(files[name], schema=SCHEMA).invalid == 0
        return read_rating(files[name].read_text(encoding="utf-8"), name, SCHEMA)


def test_the_page_learns_what_it_can_do(url: str, policy_server: str) -> None:
    about = httpx.get(f"{url}/v1/studio").json()
    assert (about["scores"], about["ratings"]) == (True, True)
    assert about["descriptions"]["humor"].startswith("How funny") and "warmth" not in about["descriptions"]
    about = httpx.get(f"{policy_server}/v1/studio").json()
    assert (about["scores"], about["ratings"]) == (False, False)


def test_scores_are_the_reward_servers(url: str, reward_server: str) -> None:
    chat = [*QUESTION, {"role": "assistant", "content": "A dog."}]
    system = [{"role": "system", "content": "Be kind."}, *chat]
    reply = httpx.post(f"{url}/v1/studio/scores", json={"chats": [chat, system]}, timeout=60).json()
    assert (reply["attributes"], reply["low"], reply["high"]) == (list(SCHEMA.active), 0, 4), "trained ones"
    for one, scores in zip((chat, system), reply["scores"], strict=True):
        same = httpx.post(f"{reward_server}/v1/score", json={"messages": one, "alone": True}, timeout=60).json()
        assert scores == pytest.approx(same["scores"][-1][: len(SCHEMA.active)], abs=1e-5)


def test_a_rating_is_kept_as_a_labeled_conversation(url: str, kept: Path) -> None:
    reply = httpx.post(f"{url}/v1/studio/ratings", json=RATING)
    assert reply.status_code == 201, reply.text
    (record,) = newest(kept)
    assert record.conversations[-1].label == "quality:4,humor:0", "in the schema's order"
    assert (record.system, record.rating.by, record.rating.model) == (SYSTEM_PROMPT, "Anna", "policy")
    assert record.rating.key is None, "this server asks for none"
    assert record.rating.asked == {"quality": 4, "toxicity": 0, "humor": 3}, "defaults filled in"
    assert {"id": record.rating.id, "at": record.rating.at} == reply.json()


def test_a_preference_is_kept_as_two_conversations_whose_history_is_not_learned(url: str, kept: Path) -> None:
    assert httpx.post(f"{url}/v1/studio/preferences", json=PREFERENCE).status_code == 201
    first, second = newest(kept)
    assert (first.answer, second.answer, first.rating.strength) == ("A cat.", "A bat.", -2)
    assert [turn.learned for turn in first.conversations] == [True, False, True, True]


def test_a_rating_says_which_key_it_came_with(
    policy_folder: Path, serving: Callable[..., Any], keys: Callable[..., Path], tmp_path: Path
) -> None:
    """Beside the name that the person typed, which may be left out then."""
    settings = {"ratings": str(tmp_path / "ratings"), "api_keys": keys({"keys": {"team-a": ALICE, "team-b": BOB}})}
    with serving(policy_folder, "generate", **settings) as (url, _):
        for route, body, key, who in (
            ("ratings", RATING, ALICE, ("Anna", "team-a")),
            ("ratings", NAMELESS, BOB, (None, "team-b")),
            ("preferences", PREFERENCE, BOB, ("Bo", "team-b")),
        ):
            reply = httpx.post(f"{url}/v1/studio/{route}", json=body, headers=bearer(key))
            assert reply.status_code == 201, reply.text
            for record in newest(tmp_path / "ratings"):
                assert (record.rating.by, record.rating.key) == who


@pytest.mark.parametrize(
    ("route", "body", "words"),
    [
        ("ratings", NAMELESS, "by: the name of who rates was expected, since this server asks for no API key"),
        ("ratings", {**RATING, "labels": {"humour": 1}}, "labels: unknown attribute 'humour'; did you mean 'humor'?"),
        ("ratings", {**RATING, "labels": {"humor": 5}}, "labels: attribute 'humor' must be in 0..4, not 5"),
        ("ratings", {**RATING, "labels": {"warmth": 1}}, "labels: attribute 'warmth' was never trained"),
        ("ratings", {**RATING, "labels": {}}, "labels: "),
        ("ratings", {**RATING, "by": "  "}, "by: "),
        ("ratings", {**RATING, "messages": TALK[:2]}, "messages must end with the user's question"),
        ("ratings", {**RATING, "answer": {"text": "a<extra_id_1>b"}}, "answer.text contains the marker <extra_id_1>"),
        ("ratings", {**RATING, "answer": {"text": "a", "asked": {"humor": 9}}}, "attribute 'humor' must be in 0..4"),
        ("preferences", {**PREFERENCE, "strength": 4}, "strength: "),
        ("preferences", {**PREFERENCE, "answers": [{"text": "a"}]}, "answers: "),
        ("preferences", {**PREFERENCE, "answers": [{"text": "a"}, {"text": "a"}]}, "the two answers are equal"),
        ("scores", {"chats": [QUESTION]}, "chats[0] must end with an assistant message"),
        ("scores", {"chats": []}, "chats: "),
        ("scores", {"chats": [[]]}, "chats[0] must end with an assistant message"),
    ],
)
def test_bad_requests_are_refused_in_words(route: str, body: dict[str, Any], words: str, url: str, kept: Path) -> None:
    before = sorted(kept.rglob("*"))
    reply = httpx.post(f"{url}/v1/studio/{route}", json=body)
    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]["message"]
    assert sorted(kept.rglob("*")) == before


@pytest.mark.parametrize(
    ("route", "body", "option"),
    [("ratings", RATING, "--ratings"), ("preferences", PREFERENCE, "--ratings"),
     ("scores", {"chats": [TALK[:2]]}, "--reward-url")],
)  # fmt: skip
def test_without_a_place_or_a_reward_server_the_option_is_named(
    route: str, body: dict[str, Any], option: str, policy_server: str
) -> None:
    reply = httpx.post(f"{policy_server}/v1/studio/{route}", json=body)
    assert reply.status_code == 404 and option in reply.json()["error"]["message"]


def test_a_reward_server_that_is_gone_is_a_503(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", reward_server={"url": "http://127.0.0.1:9"}) as (url, _):
        reply = httpx.post(f"{url}/v1/studio/scores", json={"chats": [TALK[:2]]}, timeout=60)
        assert reply.status_code == 503
        assert reply.json()["error"]["message"] == "the reward server does not answer", "and not where it is"


def test_descriptions_of_ones_own(policy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("humor: Jokes.\nwarmth: Kindness.\n")
    app = build_app(policy_folder, "generate", ServeSettings(descriptions=path))
    assert app.state.studio.descriptions["humor"] == "Jokes."
    assert app.state.studio.descriptions["warmth"] == "Kindness."
    path.write_text("humour: Jokes.\n")
    with pytest.raises(ConfigError, match=r"words\.yaml: 'humour' is not an attribute of the model; did you mean"):
        build_app(policy_folder, "generate", ServeSettings(descriptions=path))
