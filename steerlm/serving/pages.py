# SPDX-License-Identifier: Apache-2.0
"""Two pages for people: `/` says what is served and how to ask it, `/docs` lists the fields of every route.

They are plain HTML from the OpenAPI document. FastAPI's own pages load their programs from a foreign host, which a
closed network does not reach.
"""

import html
import json
import shlex
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

STYLE = """
body { font: 1rem/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0 }
pre { background: #f3f3f3; padding: 1rem; overflow: auto }
"""
KINDS = {
    "reward": "a reward model, which scores answers",
    "policy": "a model that answers with dials",
    "base": "a base model, which has no dials",
}


@router.get("/")
async def index(request: Request) -> HTMLResponse:
    """Say what is here."""
    service = request.app.state.service
    parts = [
        f"<p>This server has <b>{_text(service.name)}</b>, {KINDS[service.kind]}. Window: {service.window} tokens.</p>"
    ]
    if service.schema:
        schema = service.schema
        rows = [
            (name, f"{schema.low}..{schema.high}", str(schema.default(name)) if service.kind == "policy" else "")
            for name in schema.active
        ]
        heading = ("dial", "values", "default") if service.kind == "policy" else ("attribute", "values", "")
        parts.append(_table(heading, rows))
    if service.kind != "reward" and request.app.state.settings.studio:
        parts.append('<p><a href="studio">Studio</a>: set the dials and look at the answers</p>')
    parts.append(f"<h2>Try it</h2><pre>{_text(_example(request))}</pre>")
    routes = [
        (f"{method.upper()} {path}", operation["summary"])
        for path, methods in request.app.openapi()["paths"].items()
        for method, operation in methods.items()
        if "{version}" not in path
    ]
    parts.append(f"<h2>Routes</h2>{_table(('route', 'purpose'), routes)}")
    parts.append('<p>Fields of each route: <a href="docs">docs</a>, <a href="openapi.json">openapi.json</a></p>')
    return _page(service.name, parts)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """List the fields of every route."""
    document = request.app.openapi()
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {_text(path)}</h2><p>{_text(operation['summary'])}</p>")
            content = operation.get("requestBody", {}).get("content", {})
            body = _resolved(content.get("application/json", {}).get("schema", {}), document)
            if body.get("description"):
                parts.append(f"<p>{_text(body['description'])}</p>")
            fields = [
                (name, _type(field, document), json.dumps(field["default"]) if "default" in field else "")
                for name, field in body.get("properties", {}).items()
            ]
            if fields:
                parts.append(_table(("field", "type", "default"), fields))
    return _page("Routes", parts)


def _example(request: Request) -> str:
    service = request.app.state.service
    url = str(request.base_url).rstrip("/")
    question = {"role": "user", "content": "What is a good pet?"}
    if service.kind == "reward":
        body: dict[str, Any] = {"prompt": question["content"], "response": "A dog."}
        path = "/v1/score"
    else:
        body, path = {"messages": [question]}, "/v1/chat/completions"
        if service.schema:
            name = service.schema.active[0]
            body["chat_template_kwargs"] = {"attributes": {name: service.schema.high}}
    return f"curl {url}{path} -H 'content-type: application/json' -d {shlex.quote(json.dumps(body))}"


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _type(schema: dict[str, Any], document: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one, document) for one in schema["anyOf"]))
    if "$ref" in schema:
        fields = ", ".join(_resolved(schema, document).get("properties", {}))
        return f"object ({fields})"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), document)}"
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _text(value: str) -> str:
    return html.escape(value)


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _page(title: str, parts: Iterable[str]) -> HTMLResponse:
    head = f'<meta charset="utf-8"><title>{_text(title)} - SteerLM</title><style>{STYLE}</style>'
    content = f'<!doctype html><html lang="en"><head>{head}</head><body><h1>SteerLM</h1>{"".join(parts)}</body></html>'
    return HTMLResponse(content, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"})
