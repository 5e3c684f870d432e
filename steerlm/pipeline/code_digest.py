# SPDX-License-Identifier: Apache-2.0
"""The code part of a stage's key: a digest of the modules that make its result, found without importing them.

A stage names its root modules; whatever these import inside steerlm, anywhere in their text, belongs to it. Comments,
docstrings and formatting do not count, nor does the plumbing that only says where work runs and where files lie: a
commit to either must not train a 70B model again. What a static look cannot see (a module started as a process) is
named as a root; what no look can see is said by raising the stage's version.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import steerlm

PLUMBING = (
    "steerlm.artifact",
    "steerlm.checksums",
    "steerlm.cli",
    "steerlm.configuration",
    "steerlm.errors",
    "steerlm.files",
    "steerlm.jobs",
    "steerlm.locks",
    "steerlm.processes",
    "steerlm.recipe",
    "steerlm.signals",
    "steerlm.storage",
    "steerlm.stages.base",
    "steerlm.pipeline.code_digest",
    "steerlm.pipeline.run_log",
    "steerlm.pipeline.keys",
    "steerlm.pipeline.local",
    "steerlm.pipeline.run",
    "steerlm.pipeline.step",
    "steerlm.pipeline.tracking",
)
"""Settings reach a key by their values, so the code that composes recipes stands here too."""
CODE_SUFFIXES = (".py", ".pyc", ".pyi")
ROOT = Path(steerlm.__file__).resolve().parent


def code_digest(roots: Sequence[str], without: Sequence[str] = (), root: Path = ROOT) -> str:
    """sha256 over the closure of `roots`; `without` names modules (and all below) that take no part.

    `root` is the folder of the package that module names begin with. Its own `__init__`, where the version stands,
    does not count.
    """
    total = hashlib.sha256()
    for module, source in modules(roots, without, root).items():
        total.update(f"{module}\0{source.digest}\n".encode())
        for data in source.data:
            total.update(f"{module}/{data.name}\0{hashlib.sha256(data.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def modules(roots: Sequence[str], without: Sequence[str] = (), root: Path = ROOT) -> dict[str, "Source"]:
    """The roots and everything they import inside the package, by name; packages count with their `__init__`."""
    excluded = (*PLUMBING, *without)
    found: dict[str, Source] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = _path(module, root)
        if path is None or module in found or any(module == e or module.startswith(f"{e}.") for e in excluded):
            continue
        found[module] = Source.read(path)
        waiting += [*found[module].imports, module.rpartition(".")[0]]
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Source:
    """A module: digest of its syntax tree without docstrings, every name it may import, and the files beside it that
    are its own by name, as a template `report.html.jinja` is `report.py`'s."""

    digest: str
    imports: tuple[str, ...]
    data: tuple[Path, ...]

    @classmethod
    def read(cls, path: Path) -> "Source":
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        imports = tuple(_imports(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [statement for statement in node.body if not _is_text(statement)]
        data = sorted(p for p in path.parent.glob(f"{path.stem}.*") if p.is_file() and p.suffix not in CODE_SUFFIXES)
        return cls(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports, tuple(data))


def _path(module: str, root: Path) -> Path | None:
    """The file of a module of the package, None for a name inside a module or outside the package."""
    first, *rest = module.split(".")
    if first != root.name or not rest:
        return None
    stem = root.joinpath(*rest)
    return next((p for p in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py") if p.is_file()), None)


def _imports(tree: ast.Module) -> Iterator[str]:
    """`import a.b` and `from a.b import c`, the latter as `a.b` and as `a.b.c`, which may be a module too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, or the string that documents a field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
