# SPDX-License-Identifier: Apache-2.0
"""JSON schemas of every kind that a cluster serves, its CRDs included, for kubeconform."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.conftest import Cluster

LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""Name of a schema's file, in kubeconform's notation."""
SCALAR = {"type": ["string", "integer", "number", "null"]}
Json = dict[str, Any]


def write_schemas(cluster: Cluster, folder: Path) -> int:
    """Write a schema per kind, in which an unknown field is an error; return how many there are."""
    return write_definitions(json.loads(cluster.kubectl("get", "--raw", "/openapi/v2"))["definitions"], folder)


def write_definitions(definitions: Json, folder: Path) -> int:
    """Write a schema for each of OpenAPI's definitions that is a kind; return how many there are."""
    count = 0
    for name, definition in definitions.items():
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        if len(kinds) != 1:
            continue
        parts = [part.split(".")[0] for part in (kinds[0]["group"], kinds[0]["version"]) if part]
        schema = _schema(definition, definitions, (name,))
        (folder / f"{kinds[0]['kind'].lower()}-{'-'.join(parts)}.json").write_text(json.dumps(schema))
        count += 1
    return count


def _schema(value: Any, definitions: Json, seen: tuple[str, ...]) -> Any:
    """Resolve references, and turn Kubernetes' extensions of OpenAPI into plain JSON schema."""
    if isinstance(value, list):
        return [_schema(one, definitions, seen) for one in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        if name in seen:
            return {}
        if name.endswith(("IntOrString", "resource.Quantity")):
            return SCALAR
        return _schema(definitions[name], definitions, (*seen, name))
    if value.get("x-kubernetes-int-or-string") or value.get("format") == "int-or-string":
        return SCALAR
    schema = {}
    for key, inner in value.items():
        if key.startswith("x-kubernetes") or key == "format":
            continue
        if key in ("enum", "required", "default"):
            schema[key] = inner
        elif key == "properties":
            schema[key] = {name: _schema(one, definitions, seen) for name, one in inner.items()}
        else:
            schema[key] = _schema(inner, definitions, seen)
    open_ = value.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_:
        schema["additionalProperties"] = False
    if isinstance(schema.get("type"), str) and len(seen) > 1:
        schema["type"] = [schema["type"], "null"]
    return schema
