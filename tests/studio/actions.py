# SPDX-License-Identifier: Apache-2.0
"""What a person does on the page."""

from typing import TYPE_CHECKING

from tests.studio.world import QUESTION, SCHEMA, answer

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DEFAULTS = {name: SCHEMA.default(name) for name in SCHEMA.names}


def expected(**dials: int) -> str:
    """The answer that the model gives with some dials moved."""
    return answer(**DEFAULTS | dials)


def card(page: "Page", letter: str) -> "Locator":
    """A setting."""
    return page.get_by_role("article", name=f"Setting {letter}")


def move(page: "Page", letter: str, dial: str, value: int) -> None:
    """Move a dial."""
    card(page, letter).get_by_role("slider", name=dial).fill(str(value))


def enter_key(page: "Page", key: str) -> None:
    """Type an API key at the top of the page."""
    field = page.get_by_label("Key of this server")
    if not field.is_visible():
        page.get_by_text("API key", exact=True).click()
    field.fill(key)
    page.keyboard.press("Enter")


def send(page: "Page", question: str = QUESTION) -> None:
    """Ask and wait until all have answered."""
    page.get_by_label("Prompt", exact=True).fill(question)
    page.get_by_role("button", name="Send").click()
    answered(page)


def again(page: "Page") -> None:
    """Ask the last question again and wait."""
    page.get_by_role("button", name="Ask again", exact=True).click()
    answered(page)


def answered(page: "Page") -> None:
    """Wait until no answer is on its way."""
    page.locator("#stop:disabled").wait_for()


def answers(page: "Page", letter: str) -> list[str]:
    """The texts of a setting's answers."""
    return card(page, letter).locator(".answer .text").all_text_contents()
