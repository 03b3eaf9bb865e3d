"""Who may import whom, and what an import of the package costs an application."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_langfuse

ROOT = Path(otel_langfuse.__file__).parent
NAME = "otel_langfuse"

# One row per part: the parts that it may import, besides itself. Data goes from the top of this table to its end.
_LEAVES = frozenset({"errors", "counters", "settings", "setting_values"})
ALLOWED = {
    "errors": frozenset(),
    "counters": frozenset(),
    "setting_values": frozenset(),
    "settings": frozenset({"errors", "setting_values"}),
    "model": frozenset(),
    "views": frozenset({"model", "errors"}),
    "dialects": frozenset({"model"}),
    "pipeline": _LEAVES | {"model", "dialects"},
    "langfuse": _LEAVES | {"model", "dialects", "pipeline"},
    "otlp": _LEAVES | {"model", "views", "dialects", "langfuse"},
    "convert": _LEAVES | {"model", "views", "dialects", "pipeline", "langfuse"},
    "sdk": _LEAVES | {"model", "views", "dialects", "pipeline", "langfuse", "otlp"},
    "sidecar": _LEAVES | {"model", "views", "dialects", "pipeline", "langfuse", "otlp"},
    "": frozenset({"sdk", "settings"}),
    "testing": frozenset({"langfuse"}),
    "demo": frozenset({"", "errors", "testing"}),
    "commands": frozenset({"errors", "settings", "dialects", "convert", "demo", "sidecar"}),
    "cli": frozenset({"commands"}),
}
# Parts that compute and hold state, and nothing else: no SDK, no HTTP client, no protobuf.
PURE = frozenset({"errors", "counters", "settings", "setting_values", "model", "dialects", "pipeline"})
# What the core takes when it is there, and does without when it is not.
OPTIONAL = frozenset({"orjson"})
# Modules of ``dialects`` that know all readers. Of the others, one that defines ``read`` is a reader, and what is left
# is shared by them.
KNOWING = frozenset({"__init__", "merge", "catalogue"})

FILES = sorted(ROOT.rglob("*.py"))
DIALECTS = sorted(path for path in (ROOT / "dialects").glob("*.py") if path.stem not in KNOWING)
READERS = [path for path in DIALECTS if re.search("^def read\\(", path.read_text(encoding="utf-8"), re.MULTILINE)]
SHARED = {path.stem for path in DIALECTS} - {path.stem for path in READERS}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, at its head or inside a function, with full names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module


def is_module(name: str) -> bool:
    """Whether a name of this package is a module and not something in one."""
    head, _, rest = name.partition(".")
    place = ROOT / rest.replace(".", "/")
    return head == NAME and (place.with_suffix(".py").is_file() or (place / "__init__.py").is_file())


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def own_part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def file_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_part_has_its_row() -> None:
    assert {part_of(path) for path in FILES} == set(ALLOWED), "a new part of the package needs a row in ALLOWED"


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_data_goes_one_way(path: Path) -> None:
    part = part_of(path)
    for module in imports(path):
        if module.split(".")[0] == NAME:
            other = own_part(module)
            assert other == part or other in ALLOWED[part], f"{file_id(path)} must not import {module}"


def test_nothing_imports_the_command_line() -> None:
    above = {part for part, allowed in ALLOWED.items() if allowed & {"cli", "commands", "demo"}}
    assert above == {"cli", "commands"}


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in PURE], ids=file_id)
def test_the_core_needs_the_standard_library_only(path: Path) -> None:
    foreign = {module.split(".")[0] for module in imports(path)} - sys.stdlib_module_names - OPTIONAL - {NAME}
    assert not foreign


@pytest.mark.parametrize("path", DIALECTS, ids=file_id)
def test_no_reader_knows_another(path: Path) -> None:
    named = {module.rpartition(".")[2] for module in imports(path) if module.startswith(f"{NAME}.dialects.")}
    assert named <= SHARED, f"{file_id(path)} imports {sorted(named - SHARED)}: what readers share has its own module"


def test_there_are_readers() -> None:
    assert len(READERS) >= 5


def test_public_names_are_there() -> None:
    assert otel_langfuse.__all__ == sorted(otel_langfuse.__all__)
    for name in otel_langfuse.__all__:
        assert getattr(otel_langfuse, name) is not None
    assert len(otel_langfuse.__all__) <= 12


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = otel_langfuse.Nothing


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_what_a_module_exports_is_there(path: Path) -> None:
    """``__all__`` names only what the module defines or imports, once each."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exported: list[str] = []
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            exported = ast.literal_eval(node.value)
    assert len(exported) == len(set(exported))
    assert set(exported) - {"__version__"} <= bound


# What a web application must not get by importing us.
HEAVY = (
    "grpc",
    "uvicorn",
    "fastapi",
    "starlette",
    "http.server",
    "langfuse",
    "requests",
    "httpx",
    "urllib3",
    "google.protobuf",
    "opentelemetry.proto",
    "click",
    "rich",
    "openai",
)


@pytest.mark.parametrize(
    "statement",
    [
        "import otel_langfuse",
        "from otel_langfuse import LangfuseSpanProcessor",
        "from otel_langfuse import *",
        "from otel_langfuse import *; LangfuseSpanProcessor(public_key='pk-lf-1', secret_key='sk-lf-1').shutdown()",
        "from otel_langfuse import *; LangfuseSpanProcessor(public_key='pk', secret_key='sk', fanout='otlp').shutdown()",
        "import otel_langfuse.sdk.auto, otel_langfuse.sdk.hook",
        "import otel_langfuse.cli",
    ],
)
def test_an_import_is_light(statement: str) -> None:
    script = f"""
import sys
{statement}
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit("loaded: " + ", ".join(heavy) if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
