# SPDX-License-Identifier: Apache-2.0
"""`/studio` is served from the package under a strict policy, names no other host, and can be left out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.cli.main import call
from steerlm.serving.studio.files import STATIC, TYPES

FILES = sorted(path.name for path in STATIC.iterdir())


def test_the_page_and_every_file_are_served_under_the_policy(policy_server: str) -> None:
    for path in ("", *(f"/{name}" for name in FILES)):
        reply = httpx.get(f"{policy_server}/studio{path}")
        assert reply.status_code == 200 and len(reply.content) > 100
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy and "http" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        kind = TYPES[Path(path).suffix] if path else "text/html"
        assert reply.headers["content-type"].removesuffix("; charset=utf-8") == kind


def test_the_files_name_no_other_host_and_the_page_has_no_program_of_its_own() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}, path.name
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    named = re.findall(r"(?:src|href)=\"studio/([^\"]+)\"", page)
    modules = [one for path in STATIC.glob("*.js") for one in re.findall(r"from \"\./([^\"]+)\"", path.read_text())]
    assert {*named, *modules, "index.html"} == set(FILES), "nothing is missing, nothing is left over"


def test_what_is_not_a_file_of_the_page_is_not_found(policy_server: str) -> None:
    for path in ("nothing.js", "..%2Ffiles.py", "static", "__init__.py", ".hidden"):
        reply = httpx.get(f"{policy_server}/studio/{path}")
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "NotFoundError")


def test_an_address_with_a_slash_leads_to_the_page_whatever_the_prefix(policy_server: str) -> None:
    reply = httpx.get(f"{policy_server}/studio/")
    assert (reply.status_code, reply.headers["location"]) == (308, "../studio")
    assert httpx.get(f"{policy_server}/studio/", follow_redirects=True).text.startswith("<!doctype html>")


@pytest.mark.parametrize("path", ["/studio", "/studio/main.js", "/v1/studio"])
def test_without_the_studio_there_is_no_trace_of_it(
    path: str, policy_folder: Path, serving: Callable[..., Any]
) -> None:
    with serving(policy_folder, "generate", studio=False) as (url, _):
        assert httpx.get(f"{url}{path}").status_code == 404
        assert "studio" not in httpx.get(url).text


def test_the_reward_server_has_none_and_the_start_page_leads_there(policy_server: str, reward_server: str) -> None:
    assert httpx.get(f"{reward_server}/studio").status_code == 404
    assert "studio" not in httpx.get(reward_server).text
    assert '<a href="studio">' in httpx.get(policy_server).text


def test_ratings_without_a_studio_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "generate", str(tmp_path), "--port", "0", "--no-studio", "--ratings", str(tmp_path / "ratings")]
    assert call(words) == 2
    assert "--ratings and --descriptions are for the studio: leave out --no-studio" in capfd.readouterr().err
