# SPDX-License-Identifier: Apache-2.0
"""A real browser on the studio of a real server, beside a real reward server (`make test-studio`).

One server is open to all, another asks for API keys, of which some have limits.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOOLS = os.environ.get("STEERLM_STUDIO_TOOLS")
CHROMIUM = os.environ.get("STEERLM_CHROMIUM") or shutil.which("chromium")
IMAGES = ROOT / "docs" / "images"


PRESETS = """\
merry: {attributes: {humor: 4}, description: Jokes welcome.}
plain: {attributes: {humor: 0, creativity: 0}}
"""

KEY, BUSY, FEW = "the-key-of-anna-1", "the-key-of-busy-1", "the-key-of-few-1"
KEYS = {"anna": KEY, "busy": {"key": BUSY, "concurrent_requests": 1}, "few": {"key": FEW, "requests_per_minute": 1}}


@dataclass
class Site:
    """A running studio. `ratings`: the folder that it appends to. `keys`: its file of keys, if it asks for one."""

    url: str
    app: Any
    ratings: Path
    keys: Path | None = None

    def admit(self, names: Iterable[str]) -> None:
        """Take the keys of these names and no others, from now on; a server reads its file again when it changes."""
        assert self.keys
        self.keys.write_text(yaml.safe_dump({"keys": {name: KEYS[name] for name in names}}))
        wanted = 200 if "anna" in names else 401
        headers = {"authorization": f"Bearer {KEY}"}
        while httpx.get(f"{self.url}/v1/model", headers=headers).status_code != wanted:
            time.sleep(0.05)


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
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both models: the policy's folder, and the settings of its server beside the reward server that runs."""
    if TOOLS is None:
        pytest.skip("needs a real browser: make test-studio")
    from tests.serving.conftest import running
    from tests.studio import world

    policy, reward = world.build(tmp_path_factory.mktemp("models"))
    presets = tmp_path_factory.mktemp("presets") / "presets.yaml"
    presets.write_text(PRESETS)
    with running(reward, "reward") as (url, _):
        yield {"folder": policy, "server_kind": "generate", "presets": presets, "reward_server": {"url": url}}


@pytest.fixture(scope="session")
def site(served: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from tests.serving.conftest import running

    ratings = tmp_path_factory.mktemp("ratings")
    with running(**served, ratings=str(ratings)) as (url, app):
        yield Site(url, app, ratings)


@pytest.fixture(scope="session")
def guarded(served: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A studio whose server asks for a key."""
    from tests.serving.conftest import running

    ratings, keys = tmp_path_factory.mktemp("ratings"), tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": KEYS}))
    with running(**served, ratings=str(ratings), api_keys=keys) as (url, app):
        yield Site(url, app, ratings, keys)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    if TOOLS is None:
        pytest.skip("needs a real browser: make test-studio")
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.fail("there is no Chromium any more: rm .tools/studio/.ready, then make test-studio")
    with sync_playwright() as playwright:
        # A container has no second user, which Chromium's own sandbox needs.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def watched(site: Site, browser: "Browser", request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A new page on the studio; parametrize indirectly with options of the browser's context."""
    yield from watch(browser, site.url, getattr(request, "param", {}))


@pytest.fixture
def locked(guarded: Site, browser: "Browser") -> Iterator[Watched]:
    """A new page on the studio that asks for a key. The browser's own lines about refused requests are no errors."""
    for page in watch(browser, guarded.url, {}):
        yield page
        assert all("Failed to load resource" in error for error in page.errors), page.errors
        page.errors.clear()


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
