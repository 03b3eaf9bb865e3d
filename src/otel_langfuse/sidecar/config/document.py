"""YAML text to a tree of items with line numbers; nothing is known here of what the keys mean.

Rules:

- Every scalar stays a text, quoted or not, and what it means is decided by the key's type: ``version: 1.10`` is "1.10",
  and a key that is all digits stays as it was written. Only an unquoted ``null``, ``~`` or nothing is no value.
- ``${…}`` is expanded in values, not in keys.
- Size, nesting and the number of items, aliases counted as often as they are used, are bounded.
- Keys that are given twice, tags, and further documents are errors. Merge keys (``<<``) work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from otel_langfuse.sidecar.config.expansion import ExpansionError, expand
from otel_langfuse.sidecar.config.problems import Problems, Where

__all__ = ["Item", "read", "unset_text"]

_MOST_CHARACTERS = 256 << 10
_MOST_ITEMS = 10_000
_MOST_DEPTH = 32
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# What PyYAML quotes may be a piece of a value: kept are single characters and names of tokens.
_QUOTED = re.compile(r"'([^']*)'|\"[^\"]*\"")
_HARMLESS = re.compile(r"\S|<[a-z ]+>")


@dataclass(slots=True)
class Item:
    """A value in the file.

    Attributes:
        value: A text, ``None`` for no value, a list, or a mapping.
        line: Where its key stands, or itself when it has none; counted from 1.
        names: The variables that were asked for in it.
        unset: Those of them that gave nothing and have no default, each with how it stands.
        whole: Whether the value is one ``${…}`` and nothing else.
        broken: Whether it could not be read, which has been said.
    """

    value: str | list[Item] | dict[str, Item] | None
    line: int
    names: tuple[str, ...] = ()
    unset: tuple[tuple[str, str], ...] = ()
    whole: bool = False
    broken: bool = False

    @property
    def plain(self) -> object:
        """The value without lines, as a YAML reader would give it."""
        if isinstance(self.value, list):
            return [child.plain for child in self.value]
        if isinstance(self.value, dict):
            return {key: child.plain for key, child in self.value.items()}
        return self.value


def read(text: str, environ: Mapping[str, str], problems: Problems) -> Item | None:
    """The root of a YAML text; ``None`` for one without content. What can be read around an error is read.

    Raises:
        ConfigError: The text is no YAML, or beyond a bound.
    """
    if len(text) > _MOST_CHARACTERS:
        _fail(problems, 0, f"has {len(text)} characters; {_MOST_CHARACTERS} is the most that is read")
    try:
        _bound(text, problems)
        loader = yaml.BaseLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, position) + 1
        _fail(problems, line, "is no YAML: a character that a text file does not hold; save the file as UTF-8 text")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _fail(problems, mark.line + 1 if mark else 0, _syntax(error, mark.column + 1 if mark else 1))
    return None if node is None else _Builder(environ, problems).item(node, (), node.start_mark.line + 1)


def _fail(problems: Problems, line: int, text: str) -> None:
    problems.error((), text, line=line)
    problems.raise_found()


def _bound(text: str, problems: Problems) -> None:
    """Stops before a text is composed that nests too deeply: composing it is recursive."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > _MOST_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 0
            _fail(problems, line, f"nests deeper than {_MOST_DEPTH} levels; no configuration needs that")


def _syntax(error: yaml.MarkedYAMLError, column: int) -> str:
    problem = _QUOTED.sub(_harmless, error.problem or "it cannot be read")
    if "\\t" in (error.problem or ""):
        problem = "a tab stands where YAML wants spaces; indent with spaces"
    elif isinstance(error, yaml.composer.ComposerError):
        if "single document" in f"{error.context}":
            problem = "a second document begins (---); keep one"
        else:
            problem = "an alias (*) has no anchor (&); put a value that begins with * in quotes"
    elif "mapping values are not allowed" in problem:
        problem += "; put a value with a colon in it in quotes, and check the indentation"
    return f"is no YAML at column {column}: {problem}"


def _harmless(match: re.Match[str]) -> str:
    return match[0] if _HARMLESS.fullmatch(match[1] or "") else "(not shown)"


class _Builder:
    """Turns YAML nodes into items."""

    def __init__(self, environ: Mapping[str, str], problems: Problems) -> None:
        self._environ = environ
        self._problems = problems
        self._items = 0
        self._depth = 0

    def item(self, node: yaml.Node, where: Where, line: int) -> Item:
        self._items += 1
        self._depth += 1
        # Merging does not lengthen the path, and an anchor may merge itself.
        if self._items > _MOST_ITEMS or self._depth > _MOST_DEPTH:
            bound = f"{_MOST_ITEMS} values and {_MOST_DEPTH} levels"
            _fail(self._problems, line, f"is larger than {bound} with its aliases (*) followed; no configuration needs that")
        self._problems.place(where, line)
        item = self._read(node, where, line)
        self._depth -= 1
        return item

    def _read(self, node: yaml.Node, where: Where, line: int) -> Item:
        if node.tag not in _CORE_TAGS:
            self._problems.error(where, "a YAML tag (!…) is not known here; put a value that begins with ! in quotes")
            return Item(None, line, broken=True)
        if isinstance(node, yaml.MappingNode):
            return Item(self._mapping(node, where), line, broken=any(not isinstance(k, yaml.ScalarNode) for k, _ in node.value))
        if isinstance(node, yaml.SequenceNode):
            children = enumerate(node.value)
            return Item([self.item(child, (*where, i), child.start_mark.line + 1) for i, child in children], line)
        return self._scalar(node, where, line) if isinstance(node, yaml.ScalarNode) else Item(None, line)

    def _scalar(self, node: yaml.ScalarNode, where: Where, line: int) -> Item:
        if node.style in (None, "") and node.value in _NULLS:
            return Item(None, line)
        try:
            expanded = expand(node.value, self._environ)
        except ExpansionError as error:
            self._problems.error(where, f"{error}")
            return Item(None, line, broken=True)
        if expanded.unset and not expanded.whole:
            self._problems.error(where, unset_text(expanded.unset))
            return Item(None, line, broken=True)
        return Item(expanded.text, line, expanded.names, expanded.unset, expanded.whole)

    def _mapping(self, node: yaml.Node, where: Where) -> dict[str, Item]:
        merged: dict[str, Item] = {}
        own: dict[str, Item] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.error(where, "a key is no plain text; is a template ({{ … }}) left unrendered?", line=line)
                continue
            key = key_node.value
            if key == "<<" and key_node.style in (None, ""):
                self._merge(value_node, where, line, merged)
            elif key in own:
                first = own[key].line
                self._problems.error((*where, key), f"is given twice, first on line {first}; keep one", line=line)
            else:
                own[key] = self.item(value_node, (*where, key), line)
        return {**merged, **own}

    def _merge(self, node: yaml.Node, where: Where, line: int, merged: dict[str, Item]) -> None:
        """Adds what ``<<`` names; what is named first wins."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                self._problems.error((*where, "<<"), "merges what is no mapping; name an anchor of one", line=line)
                continue
            item = self.item(source, where, line)
            if isinstance(item.value, dict):
                for key, child in item.value.items():
                    merged.setdefault(key, child)


def unset_text(unset: tuple[tuple[str, str], ...]) -> str:
    """Says that variables are not set, and what to do."""
    states = " and ".join(f"{name} {state}" for name, state in unset)
    return f"{states}; export {'it' if len(unset) == 1 else 'them'} or write ${{env:{unset[0][0]}:-…}}"
