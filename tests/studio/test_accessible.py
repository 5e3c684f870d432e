# SPDX-License-Identifier: Apache-2.0
"""The studio for everybody: axe-core finds nothing against WCAG AA, the keyboard is enough, a phone is wide enough."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.studio.actions import answered, answers, card, expected, move, send
from tests.studio.conftest import TOOLS, Watched, picture
from tests.studio.world import QUESTION

if TYPE_CHECKING:
    from playwright.sync_api import Page

PHONE = {"width": 360, "height": 740}
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "light on a phone": {"color_scheme": "light", "viewport": PHONE},
    "dark on a phone": {"color_scheme": "dark", "viewport": PHONE},
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(page: "Page") -> list[tuple[str, str]]:
    """What axe-core finds on the page as it is now."""
    page.evaluate((Path(str(TOOLS)) / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    found: dict[str, list[dict[str, Any]]] = page.evaluate(
        "rules => axe.run({runOnly: {type: 'tag', values: rules}})", RULES
    )
    assert {"color-contrast", "label", "button-name"} <= {one["id"] for one in found["passes"]}, "axe looked"
    return [(one["id"], node["html"][:160]) for one in found["violations"] for node in one["nodes"]]


def overflow(page: "Page") -> int:
    """By how many pixels the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("watched", list(LOOKS.values()), ids=list(LOOKS), indirect=True)
def test_axe_finds_nothing_and_nothing_is_cut_off(watched: Watched) -> None:
    page = watched.page
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_text("System prompt", exact=True).click()
    page.get_by_text("API key", exact=True).click()
    page.get_by_role("button", name="Add a setting").click()
    send(page)
    card(page, "A").get_by_text("Rate the answer").click()
    for letter in "AB":
        card(page, letter).get_by_role("table").wait_for()
    assert (violations(page), overflow(page)) == ([], 0)
    page.get_by_role("button", name="Share link").click()
    assert (violations(page), overflow(page)) == ([], 0)
    page.get_by_role("button", name="Close").click()
    page.get_by_role("tab", name="Sweep a dial").click()
    page.get_by_role("button", name="Sweep", exact=True).click()
    page.get_by_role("button", name="Download CSV").wait_for()
    assert (violations(page), overflow(page)) == ([], 0)
    page.get_by_role("tab", name="History").click()
    assert (violations(page), overflow(page)) == ([], 0)


@pytest.mark.parametrize("watched", [LOOKS["dark on a phone"]], ids=["dark"], indirect=True)
def test_a_phone_shows_an_answer_and_what_it_obtained(watched: Watched) -> None:
    page = watched.page
    move(page, "A", "humor", 3)
    send(page)
    table = card(page, "A").get_by_role("table")
    table.scroll_into_view_if_needed()
    assert page.evaluate("innerWidth") == PHONE["width"]
    picture(page, "studio-phone")


def test_the_keyboard_is_enough(watched: Watched) -> None:
    """From the top of the page to another answer and a sweep, with Tab, Enter, arrows and typing alone."""
    page = watched.page

    def focus(name: str, role: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
            if found.count() and found.first.evaluate("one => one === document.activeElement"):
                return
        raise AssertionError(f"Tab does not lead to {name}")

    card(page, "A").wait_for()
    focus("Prompt", "textbox")
    page.keyboard.type(QUESTION)
    focus("Send", "button")
    page.keyboard.press("Enter")
    page.get_by_text(expected()).first.wait_for()
    answered(page)
    focus("humor", "slider")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focus("Ask again", "button")
    page.keyboard.press("Space")
    page.get_by_text(expected(humor=2)).first.wait_for()
    answered(page)
    assert answers(page, "A") == [expected(humor=2)]
    assert page.locator("#status").text_content() == f"Setting A: {expected(humor=2)}", "said to a screen reader"
    focus("Ask", "tab")
    page.keyboard.press("ArrowRight")
    focus("Sweep", "button")
    page.keyboard.press("Enter")
    page.get_by_role("img", name="obtained humor over asked humor").wait_for()
    assert violations(page) == []
