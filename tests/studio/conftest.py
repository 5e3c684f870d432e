# SPDX-License-Identifier: Apache-2.0
"""A real browser on the studio of a real server, beside a real reward server (`make test-studio`)."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOOLS = os.environ.get("STEERLM_STUDIO_TOOLS")
CHROMIUM = os.environ.get("STEERLM_CHROMIUM") or shutil.which("chromium")
IMAGES = ROOT / "docs" / "images"


@dataclass
class Site:
    """A running studio. `ratings`: the folder that it appends to."""

    url: str
    app: Any
    ratings: Path


@dataclass
class Watched:
    """A page, and what it may not do: print errors, ask other hosts."""

    page: "Page"
    url: str
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert self.errors == []
        assert self.asked and all(url.startswith((f"{self.url}/", "blob:")) for url in self.asked), self.asked


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if TOOLS is None:
        pytest.skip("needs a real browser: make test-studio")
    from tests.serving.conftest import running
    from tests.studio import world

    policy, reward = world.build(tmp_path_factory.mktemp("models"))
    ratings = tmp_path_factory.mktemp("ratings")
    with (
        running(reward, "reward") as (reward_url, _),
        running(policy, "generate", ratings=str(ratings), reward_server={"url": reward_url}) as (url, app),
    ):
        yield Site(url, app, ratings)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    if TOOLS is None:
        pytest.skip("needs a real browser: make test-studio")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container has no second user, which Chromium's own sandbox needs.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def watched(site: Site, browser: "Browser", request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A new page on the studio; parametrize indirectly with options of the browser's context."""
    yield from watch(browser, site.url, getattr(request, "param", {}))


def watch(browser: "Browser", url: str, options: dict[str, Any]) -> Iterator[Watched]:
    """A page with its own storage; at the end it must have been quiet."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    result = Watched(page, url)
    page.on("console", lambda message: result.errors.extend([message.text] if message.type == "error" else []))
    page.on("pageerror", lambda error: result.errors.append(str(error)))
    page.on("request", lambda one: result.asked.append(one.url))
    page.goto(f"{url}/studio")
    yield result
    result.check()
    context.close()


def picture(page: "Page", name: str, **options: Any) -> None:
    """Write a picture for the documentation, if the environment asks for it."""
    if os.environ.get("STEERLM_STUDIO_IMAGES"):
        page.screenshot(path=IMAGES / f"{name}.png", **options)
