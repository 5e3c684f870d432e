# SPDX-License-Identifier: Apache-2.0
"""Provenance of a stage's code: digests of the modules that decide its result, without importing them.

The closure of a stage is its root modules and everything they import inside steerlm, wherever the import is written.
A module that is started as a process is named as a root. Comments, docstrings, formatting and messages (the texts of
exceptions, logging and progress) do not count. Code is in no key; what code cannot be seen here is covered by raising
the stage's `version`.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import steerlm

RESULT_NEUTRAL = (
    # Where work runs and where files are.
    "steerlm.artifact",
    "steerlm.checksums",
    "steerlm.cli",
    "steerlm.configuration",
    "steerlm.files",
    "steerlm.jobs",
    "steerlm.locks",
    "steerlm.retry",
    "steerlm.pipeline",
    "steerlm.processes",
    "steerlm.recipe",
    "steerlm.retry",
    "steerlm.settings",
    "steerlm.signals",
    "steerlm.stages.base",
    "steerlm.stages.registry",
    "steerlm.storage",
    # Error texts, reports of a running job, the model card.
    "steerlm.errors",
    "steerlm.megatron.flight_recorder",
    "steerlm.models.card",
    "steerlm.training.garbage",
    "steerlm.training.heartbeat",
    "steerlm.training.sink",
    "steerlm.training.speed",
    "steerlm.training.step_time",
    "steerlm.training.stragglers",
    "steerlm.trainjob.worker_heartbeat",
    # HTTP clients.
    "steerlm.client",
    "steerlm.inference.http_chat",
    "steerlm.inference.http_scorer",
    "steerlm.inference.server_pool",
)
"""Modules, and all below them, that do not decide a result. Settings reach a key by their values."""
CODE_SUFFIXES = (".py", ".pyc", ".pyi")
MESSAGE_CALLS = ("debug", "info", "warning", "error", "exception", "critical", "warn", "print", "report_progress")
IGNORED_FIELDS = ("kind", "type_comment", "ctx")
ROOT = Path(steerlm.__file__).resolve().parent


def code_digests(roots: Sequence[str], without: Sequence[str] = (), root: Path = ROOT) -> dict[str, str]:
    """Return the digest of every file in the closure of `roots`, by path inside the package such as `prompt.py`.

    Args:
        roots: Names of the modules to start from.
        without: Modules, and all below them, to leave out in addition to `RESULT_NEUTRAL`.
        root: Folder of the package that the module names start with. Its own `__init__` does not count.
    """
    digests = {}
    for source in modules(roots, without, root).values():
        digests[source.path.relative_to(root).as_posix()] = source.digest
        for data in source.data:
            digests[data.relative_to(root).as_posix()] = hashlib.sha256(data.read_bytes()).hexdigest()
    return dict(sorted(digests.items()))


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the files that differ between two results of `code_digests`, sorted."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def modules(roots: Sequence[str], without: Sequence[str] = (), root: Path = ROOT) -> dict[str, "Source"]:
    """Return the roots and everything they import inside the package, by name; packages count with their `__init__`."""
    excluded = (*RESULT_NEUTRAL, *without)
    sources: dict[str, Source] = {}
    queue = list(roots)
    while queue:
        module = queue.pop()
        path = _path(module, root)
        if path is None or module in sources or any(module == e or module.startswith(f"{e}.") for e in excluded):
            continue
        sources[module] = Source.read(path)
        queue += [*sources[module].imports, module.rpartition(".")[0]]
    return dict(sorted(sources.items()))


@dataclass(frozen=True, slots=True)
class Source:
    """A module of the package.

    Args:
        path: Its file.
        digest: sha256 of its normalized syntax tree.
        imports: Every name it may import.
        data: Files beside it that belong to it by name, as the template `report.html.jinja` to `report.py`.
    """

    path: Path
    digest: str
    imports: tuple[str, ...]
    data: tuple[Path, ...]

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Parse a module without importing it and compute its digest, imports and data files."""
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        parts: list[str] = []
        _normalize(tree, parts)
        digest = hashlib.sha256("".join(parts).encode()).hexdigest()
        data = sorted(p for p in path.parent.glob(f"{path.stem}.*") if p.is_file() and p.suffix not in CODE_SUFFIXES)
        return cls(path, digest, tuple(_imports(tree)), tuple(data))


def _normalize(node: object, parts: list[str], *, message: bool = False) -> None:
    """Append the syntax tree as text that is equal in every Python version: empty fields are left out.

    In a `message`, text and f-strings are left out too.
    """
    if isinstance(node, list):
        for item in node:
            if not (isinstance(item, ast.Expr) and _is_text(item.value)):
                _normalize(item, parts, message=message)
    elif not isinstance(node, ast.AST):
        parts.append(f"{node!r};")
    elif message and (isinstance(node, ast.JoinedStr) or _is_str(node)):
        parts.append("text;")
    else:
        parts.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value not in (None, []) and name not in IGNORED_FIELDS:
                parts.append(f"{name}=")
                _normalize(value, parts, message=message or isinstance(node, ast.Raise) or name == "msg")
        parts.append(")")


def _path(module: str, root: Path) -> Path | None:
    """Return the file of a module; None for a name inside a module or outside the package."""
    first, *rest = module.split(".")
    if first != root.name or not rest:
        return None
    stem = root.joinpath(*rest)
    return next((p for p in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py") if p.is_file()), None)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield `a.b` for `import a.b`; `a.b` and `a.b.c`, which may be a module too, for `from a.b import c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_text(value: ast.expr) -> bool:
    """Return whether an expression statement is a docstring, documents a field, or only reports."""
    if isinstance(value, ast.Call):
        function = value.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return name in MESSAGE_CALLS
    return _is_str(value)


def _is_str(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
