# SPDX-License-Identifier: Apache-2.0
"""A person's way through the studio: dials, answers, comparison, sweep, rating, link, code."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from steerlm.attributes import AttributeSchema
from steerlm.datasets.check import check
from steerlm.datasets.rating_folder import rating_files
from steerlm.datasets.ratings import RatedConversation, read_rating
from tests.studio.actions import again, answers, card, enter_key, expected, move, send
from tests.studio.conftest import BUSY, FEW, KEY, KEYS, Site, Watched, picture
from tests.studio.world import QUESTION, SCHEMA

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_moved_dial_gives_another_answer(watched: Watched) -> None:
    page = watched.page
    send(page)
    assert answers(page, "A") == [expected()]
    move(page, "A", "humor", 4)
    again(page)
    assert answers(page, "A") == [expected(humor=4)]
    assert "humor 4, creativity 0, verbosity 2" in (card(page, "A").locator(".answer .who").text_content() or "")
    card(page, "A").get_by_role("button", name="Defaults").click()
    again(page)
    assert answers(page, "A") == [expected()]


def test_with_the_box_ticked_a_moved_dial_asks_by_itself(watched: Watched) -> None:
    page = watched.page
    page.get_by_label("Ask again whenever a dial is moved").check()
    send(page)
    move(page, "A", "creativity", 4)
    page.get_by_text(expected(creativity=4)).first.wait_for()


def test_dials_have_the_schemas_range_default_and_description(watched: Watched) -> None:
    slider = watched.page.get_by_role("slider", name="verbosity")
    assert (slider.get_attribute("min"), slider.get_attribute("max"), slider.input_value()) == ("0", "4", "2")
    described = watched.page.locator(f"#{slider.get_attribute('aria-describedby')}").text_content()
    assert described == "How long and detailed the answer is. 0 to 4, normally 2."


def test_settings_side_by_side_answer_one_prompt_and_show_what_they_obtained(watched: Watched) -> None:
    page = watched.page
    move(page, "A", "humor", 0)
    page.get_by_role("button", name="Add a setting").click()
    move(page, "B", "humor", 4)
    move(page, "B", "creativity", 3)
    send(page)
    assert answers(page, "A") == [expected()]
    assert answers(page, "B") == [expected(humor=4, creativity=3)]
    table = card(page, "B").get_by_role("table")
    table.wait_for()
    rows = {
        row.locator("th").text_content(): row.locator("td.number").all_text_contents()
        for row in table.locator("tbody tr").all()
    }
    assert rows["humor"][0] == "4" and abs(float(rows["humor"][1]) - 4) < 1
    assert rows["creativity"][0] == "3" and abs(float(rows["creativity"][1]) - 3) < 1
    picture(page, "studio", full_page=True)
    page.get_by_role("button", name="Remove Setting B").click()
    assert card(page, "B").count() == 0


def test_several_turns_and_continuing_all_from_one_answer(watched: Watched) -> None:
    page = watched.page
    page.get_by_role("button", name="Add a setting").click()
    move(page, "B", "creativity", 1)
    send(page)
    page.get_by_role("button", name="Continue all from Setting B").click()
    assert answers(page, "A") == answers(page, "B") == [expected(creativity=1)]
    send(page)
    assert len(answers(page, "A")) == 2
    page.get_by_role("button", name="New conversation").click()
    assert answers(page, "A") == []


def test_a_sweep_shows_the_curve_its_numbers_and_a_csv(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    page.get_by_role("tab", name="Sweep a dial").click()
    page.get_by_label("Prompt of the sweep").fill(QUESTION)
    page.get_by_label("Dial to sweep").select_option("verbosity")
    page.get_by_role("button", name="Sweep", exact=True).click()
    page.get_by_role("img", name="obtained verbosity over asked verbosity").wait_for()
    rows = page.locator("#view-sweep tbody tr").all()
    assert [row.locator("td.text").text_content() for row in rows] == [expected(verbosity=n) for n in range(5)]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "sweep.csv")
    with open(tmp_path / "sweep.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["asked verbosity"] for row in table] == list("01234")
    assert all(abs(float(row["obtained verbosity"]) - n) < 1 for n, row in enumerate(table))
    picture(page, "studio-sweep", full_page=True)


def test_a_sweep_waits_for_a_busy_server(locked: Watched) -> None:
    """It asks for several values at once; the key may have one request at a time."""
    page = locked.page
    enter_key(page, BUSY)
    page.get_by_role("tab", name="Sweep a dial").click()
    page.get_by_label("Prompt of the sweep").fill(QUESTION)
    locked.errors.clear()
    page.get_by_role("button", name="Sweep", exact=True).click()
    page.get_by_role("button", name="Download CSV").wait_for()
    rows = page.locator("#view-sweep tbody tr").all()
    assert [row.locator("td.text").text_content() for row in rows] == [expected(humor=n) for n in range(5)]
    assert locked.errors and all("429" in error for error in locked.errors)


def records(site: Site) -> list[list[RatedConversation]]:
    with rating_files(site.ratings) as files:
        return [read_rating(path.read_text(), name, SCHEMA) for name, path in files.items()]


def test_a_person_rates_an_answer_and_prefers_one_of_two(watched: Watched, site: Site) -> None:
    page = watched.page
    page.get_by_role("button", name="Add a setting").click()
    move(page, "B", "humor", 3)
    send(page)
    card(page, "B").get_by_text("Rate the answer of Setting B").click()
    form = card(page, "B").locator("form")
    form.get_by_label("humor").select_option("3")
    form.get_by_label("verbosity").select_option("1")
    form.get_by_label("Your name").fill("Anna")
    picture(page, "studio-rate", full_page=True)
    form.get_by_role("button", name="Save rating").click()
    form.get_by_text("Saved.").wait_for()
    better = page.get_by_role("form", name="Preference")
    better.get_by_label("Verdict").select_option("2")
    better.get_by_label("Your name").focus()
    assert better.get_by_label("Your name").input_value() == "Anna", "it is asked once"
    better.get_by_role("button", name="Save preference").click()
    better.get_by_text("Saved.").wait_for()
    (rating,), pair = records(site)[-2:]
    assert (rating.rating.by, rating.labels, rating.answer) == ("Anna", {"humor": 3, "verbosity": 1}, expected(humor=3))
    assert rating.rating.asked == {"humor": 3, "creativity": 0, "verbosity": 2}
    assert [(one.answer, one.rating.strength) for one in pair] == [(expected(), 2), (expected(humor=3), 2)]
    with rating_files(site.ratings) as files:
        assert all(check(path, schema=AttributeSchema()).invalid == 0 for path in files.values())


def test_a_shared_link_opens_prompt_dials_and_answers(watched: Watched, site: Site) -> None:
    page = watched.page
    page.get_by_role("button", name="Add a setting").click()
    move(page, "B", "humor", 2)
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Longest answer").fill("40")
    send(page)
    page.get_by_role("button", name="Share link").click()
    link = page.get_by_label("link", exact=True).input_value()
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == link
    assert link.startswith(f"{site.url}/studio#s=")
    page.goto("about:blank")
    page.goto(link)
    assert answers(page, "B") == [expected(humor=2)]
    assert card(page, "B").get_by_role("slider", name="humor").input_value() == "2"
    assert page.locator("#max-tokens").input_value() == "40"
    page.reload()
    assert answers(page, "A") == [expected()]
    again(page)
    assert answers(page, "B") == [expected(humor=2)]
    watched.asked = [url for url in watched.asked if url != "about:blank"]


def test_damaged_links_are_said(watched: Watched, site: Site) -> None:
    page = watched.page
    for fragment, words in (("s=%%%", "The link is damaged"), ("s=e30", "cannot be opened")):
        page.goto("about:blank")
        page.goto(f"{site.url}/studio#{fragment}")
        page.get_by_role("alert").filter(has_text=words).wait_for()
        send(page)
        assert answers(page, "A") == [expected()]
    watched.asked = [url for url in watched.asked if url != "about:blank"]


def test_copied_code_gives_the_answer_of_the_page(watched: Watched) -> None:
    page = watched.page
    move(page, "A", "humor", 3)
    send(page)
    card(page, "A").get_by_role("button", name="Copy as code").click()
    curl, program = (page.get_by_label(name, exact=True).input_value() for name in ("curl", "Python"))
    reply = subprocess.run(
        ["bash", "-c", curl.replace("curl", "curl -s", 1)], capture_output=True, text=True, check=True
    )
    assert expected(humor=3) in reply.stdout
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert printed.stdout.strip() == expected(humor=3)


def test_the_history_keeps_conversations_until_it_is_cleared(watched: Watched) -> None:
    page = watched.page
    send(page)
    page.reload()
    page.get_by_role("tab", name="History").click()
    page.get_by_role("button", name=f"Open: {QUESTION}").click()
    assert answers(page, "A") == [expected()]
    page.get_by_role("tab", name="History").click()
    page.get_by_role("button", name="Clear the history").click()
    page.get_by_text("There is nothing yet.").wait_for()
    assert page.evaluate("localStorage.getItem('steerlm.studio.history')") is None


def test_a_preset_sets_its_dials_and_the_others_to_their_defaults(watched: Watched) -> None:
    page = watched.page
    choice = page.get_by_label("Preset for Setting A")
    choice.wait_for()
    assert choice.locator("option").all_text_contents()[-2:] == ["merry: Jokes welcome.", "plain"]
    move(page, "A", "verbosity", 4)
    choice.select_option(label="merry: Jokes welcome.")
    send(page)
    assert answers(page, "A") == [expected(humor=4)]


def test_a_key_is_asked_for_sent_and_kept_in_the_tab_only(locked: Watched) -> None:
    page = locked.page
    page.get_by_role("alert").filter(has_text="The server asks for an API key").wait_for()
    for key, words in (("wrong", "does not take this API key"), (KEY, "Model policy: 3 dials")):
        enter_key(page, key)
        page.get_by_text(words).wait_for()
    send(page)
    assert answers(page, "A") == [expected()]
    card(page, "A").get_by_role("button", name="Copy as code").click()
    assert "$STEERLM_API_KEY" in page.get_by_label("curl", exact=True).input_value()
    places = "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, location.href]"
    kept = page.evaluate(places)
    assert [KEY in place for place in kept] == [True, False, False, False]
    assert locked.errors and all("401" in error for error in locked.errors)


def test_with_a_key_the_name_may_stay_open(locked: Watched, guarded: Site) -> None:
    page = locked.page
    enter_key(page, KEY)
    card(page, "A").wait_for()
    send(page)
    card(page, "A").get_by_text("Rate the answer of Setting A").click()
    form = card(page, "A").locator("form")
    for name in ("", "Anna"):
        form.get_by_label("humor").select_option("1")
        form.get_by_label("Your name").fill(name)
        form.get_by_role("button", name="Save rating").click()
        form.get_by_text("Saved.").wait_for()
        (record,) = max(records(guarded), key=lambda one: one[0].rating.at)
        assert (record.rating.key, record.rating.by) == ("anna", name or None)
        form.get_by_role("status").evaluate("note => note.textContent = ''")


def test_stop_keeps_what_has_arrived(watched: Watched) -> None:
    """The one reply that is not the server's: no real one can be made to keep silent for as long as a test likes."""
    page = watched.page
    page.route("**/v1/chat/completions", lambda route: None)
    page.get_by_label("Prompt", exact=True).fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped").wait_for()
    assert page.get_by_role("button", name="Send").is_enabled()


class Fault:
    """A way in which the server of keys cannot answer, which begins and ends."""

    words: str

    def __init__(self, site: Site, page: "Page") -> None:
        self.site, self.page = site, page

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class LimitReached(Fault):
    words = r"The server is busy, or your limit is reached\. Try again in \d+ seconds\. \(the API key 'few' has reached"

    def begin(self) -> None:
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
        headers = {"authorization": f"Bearer {FEW}"}
        statuses = [
            httpx.post(f"{self.site.url}/v1/chat/completions", json=body, headers=headers).status_code for _ in "12"
        ]
        assert statuses[-1] == 429
        enter_key(self.page, FEW)

    def end(self) -> None:
        enter_key(self.page, KEY)


class Draining(Fault):
    words = r"The server cannot answer now\. Try again in 5 seconds\. \(the server is shutting down\)"

    def begin(self) -> None:
        self.site.app.state.draining = True

    def end(self) -> None:
        self.site.app.state.draining = False


class KeyWithdrawn(Fault):
    words = r"The server does not take this API key\."

    def begin(self) -> None:
        self.site.admit(["busy", "few"])

    def end(self) -> None:
        self.site.admit(KEYS)


class Offline(Fault):
    words = r"The server does not answer\."

    def begin(self) -> None:
        self.page.context.set_offline(True)

    def end(self) -> None:
        self.page.context.set_offline(False)


@pytest.mark.parametrize("fault", [LimitReached, Draining, KeyWithdrawn, Offline])
def test_failures_are_said_in_words(fault: type[Fault], locked: Watched, guarded: Site) -> None:
    page = locked.page
    enter_key(page, KEY)
    card(page, "A").wait_for()
    now = fault(guarded, page)
    now.begin()
    try:
        send(page)
        page.get_by_text(re.compile(fault.words)).wait_for()
    finally:
        now.end()
    assert page.get_by_label("Prompt", exact=True).input_value() == QUESTION, "nothing that was typed is lost"
    page.get_by_role("button", name="Send").click()
    page.get_by_text(expected()).first.wait_for()
