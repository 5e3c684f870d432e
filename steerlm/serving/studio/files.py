# SPDX-License-Identifier: Apache-2.0
"""`/studio`: the page for people and its files, which are data of this package.

The page is plain HTML, CSS and modules of the browser's own language. The policy in its headers lets it load files of
this server only, call this server only, and run no program that is written into the page.
"""

from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # ask whether it is still the same: a new version is seen at once
}


@cache
def static_files() -> dict[str, Path]:
    """Return the files by name; nothing else can be asked for, whatever the path in a request."""
    return {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}


@router.get("/studio")
async def page() -> FileResponse:
    """Serve the page."""
    return _file(PAGE)


@router.get("/studio/")
async def page_with_slash() -> RedirectResponse:
    """Lead to the page by a relative address, which holds behind any gateway."""
    return RedirectResponse("../studio", 308)


@router.get("/studio/{name}")
async def file(name: str) -> FileResponse:
    """Serve one of its files."""
    if name not in static_files():
        raise HTTPException(404)
    return _file(name)


def _file(name: str) -> FileResponse:
    path = static_files()[name]
    return FileResponse(path, media_type=TYPES[path.suffix], headers=HEADERS)
