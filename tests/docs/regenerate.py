"""Writes what is generated: the settings table in README.md, and docs/dialects.md.

``make docs`` runs it; with ``--check`` it writes nothing and ends with 1 if something is not current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from otel_langfuse.dialects import catalogue
from otel_langfuse.settings import Settings

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"


def readme(old: str) -> str:
    head, _, rest = old.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"README.md has no place for the settings table: {BEGIN} … {END}")
    return f"{head}{BEGIN}\n{Settings.table()}\n{END}{tail}"


def dialects(_: str) -> str:
    return catalogue.markdown()


GENERATED = {ROOT / "README.md": readme, ROOT / "docs" / "dialects.md": dialects}


def main(check: bool) -> int:
    stale = []
    for path, make in GENERATED.items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = make(old)
        if new != old:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path} is not current: make docs" if check else f"wrote {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
