# SPDX-License-Identifier: Apache-2.0
"""Pages of the documentation site that are files at the root of the repository.

A hook of mkdocs: README.md becomes the start page, CONTRIBUTING.md and CHANGELOG.md pages of their own, and links to
files that are no pages lead to the repository.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FENCE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)
"""A code block with the name of the file that the page's test writes it to, or with `fails`."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, page in PAGES.items():
        text = _relinked((ROOT / name).read_text(encoding="utf-8"), ROOT, str(config.repo_url))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Replace links from a page in docs/ to files outside it, and show the file names of code blocks as titles."""
    if not page.file.generated_by:
        markdown = _relinked(markdown, ROOT / "docs", str(config.repo_url))
    return FENCE.sub(lambda match: f"```{match[1]}" + ("" if match[2] == "fails" else f' title="{match[2]}"'), markdown)


def _relinked(text: str, folder: Path, repository: str) -> str:
    def replace(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = (folder / path).resolve().relative_to(ROOT)
        if str(target) in PAGES:
            return f"]({PAGES[str(target)]}{anchor})"
        if target.parts[0] == "docs" and target.suffix != ".py":
            return f"]({target.relative_to('docs')}{anchor})"
        return f"]({repository}/blob/main/{target}{anchor})"

    return LINK.sub(replace, text)
