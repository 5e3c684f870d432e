# SPDX-License-Identifier: Apache-2.0
"""What runs the documents notices a document that is wrong."""

from pathlib import Path

import pytest

from tests.docs.shell import Shell, commands


def page(folder: Path, *parts: str) -> Path:
    """A document of fenced blocks, each given as info string and text."""
    blocks = [f"```{info}\n{text}\n```\n" for info, text in (part.split("|", 1) for part in parts)]
    (folder / "page.md").write_text("words\n\n".join(blocks))
    return folder / "page.md"


def test_continued_lines_and_comments() -> None:
    assert commands('steerlm ask "a b" \\\n  --humor 0  # why\n\n# no\nkill %1\n') == [
        ["steerlm", "ask", "a b", "--humor", "0"],
        ["kill", "%1"],
    ]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (["bash|steerlm plan demo --sett x=1"], "No such option"),
        (["bash|steerlm plan demo --set reward.epoch=1"], "did you mean"),
        (["bash fails|steerlm plan demo"], "ended with 0"),
        (["bash|steerlm plan demo", "text|memory per house"], "the document promises 'memory per house'"),
        (["python|print(1)", "text|2"], "the document promises '2'"),
        (["bash|rm -rf runs"], "only steerlm's commands are run"),
        (["bash|steerlm serve reward nowhere --port 1424 &"], "ended with 2"),
    ],
)
def test_a_wrong_document_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], told: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=told):
        Shell().run(page(tmp_path, *parts))


def test_a_right_document_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Shell(added={"steerlm plan": "--set reward.max_steps=2"}).run(
        page(
            tmp_path,
            "bash|steerlm plan demo",
            "text|memory per GPU",
            "text notes/a.txt|b",
            "python|print(open('notes/a.txt').read())",
            "text|b",
        )
    )
