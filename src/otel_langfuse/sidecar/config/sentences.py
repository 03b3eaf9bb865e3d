"""What pydantic found, in sentences that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from otel_langfuse.sidecar.config.document import Item, unset_text
from otel_langfuse.sidecar.config.problems import Problems, Where, quoted, suggestion

__all__ = ["report", "report_absent"]

_BY_TYPE = {
    "greater_than_equal": "is too small; it must be at least {ge:g}",
    "less_than_equal": "is too large; it must be at most {le:g}",
    "finite_number": "is no finite number; write one like 0.5",
    "dict_type": "is no mapping; write its keys below it, indented",
    "tuple_type": "is no list; write [a, b], or one entry a line, each with a dash",
    "too_short": "is empty; name at least one",
    "string_type": "is no text; write a single value",
    "string_unicode": "has characters that cannot be encoded; write plain text",
}
_BY_PREFIX = {
    "int_": "is no whole number; write one like 4",
    "float_": "is no number; write one like 0.5",
    "bool_": "is neither true nor false; write one of them",
    "string_": "is no text; write a single value",
}


def report(
    error: ValidationError, kind: type[BaseModel], where: Where, items: Mapping[Where, Item], problems: Problems
) -> None:
    """Adds a problem for everything that a model did not take.

    Args:
        error: What its validation raised.
        kind: The model.
        where: The path of its data.
        items: By path, what stood in the file.
        problems: Takes the sentences.
    """
    for detail in error.errors(include_url=False):
        steps = tuple(step for step in detail["loc"] if step != "[key]")
        place = (*where, *steps)
        item = items.get(place)
        if detail["type"] == "missing":
            field = _field(kind, steps)
            report_absent(place, item, problems, meaning=(field.description or "") if field else "")
        elif item is None or not item.broken:
            problems.error(place, _sentence(detail, item))


def report_absent(where: Where, item: Item | None, problems: Problems, *, meaning: str = "") -> None:
    """Adds the problem that something needed is not given, and why.

    Args:
        where: Its path.
        item: What stood in the file, if anything did.
        problems: Takes the sentence.
        meaning: What the key is, in one line.
    """
    if item is not None and item.broken:
        return
    if item is not None and item.names:
        problems.error(where, unset_text(item.unset or tuple((name, "is not set") for name in item.names)))
        return
    hint = f" ({meaning.split(chr(10))[0].replace('``', '').rstrip('.')})" if meaning else ""
    state = "is missing; add it" if item is None else "is empty; give it a value"
    problems.error(where, state + hint)


def _sentence(detail: ErrorDetails, item: Item | None) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return _not_in_set(detail["input"], str(context["expected"]), item)
    if kind in _BY_TYPE:
        return _BY_TYPE[kind].format(**context)
    for prefix, sentence in _BY_PREFIX.items():
        if kind.startswith(prefix):
            return sentence
    return "cannot be used; see the comments of otel-config.yaml"


def _not_in_set(given: Any, expected: str, item: Item | None) -> str:
    words = expected.replace("'", "")
    if not isinstance(given, str) or (item is not None and item.names):
        return f"is not one of the known words; use {words}"
    return f"is {quoted(given)}; use {words}{suggestion(given, words.replace(' or ', ', ').split(', '))}"


def _field(kind: type[BaseModel], steps: Where) -> FieldInfo | None:
    """The field at the end of a path through models and mappings of them."""
    field: FieldInfo | None = None
    model: Any = kind
    for step in steps:
        if get_origin(model) is dict:
            model = get_args(model)[1]
            continue
        field = model.model_fields.get(str(step)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return None
        model = next((part for part in get_args(field.annotation) if part is not str), field.annotation)
        model = field.annotation if get_origin(field.annotation) is dict else model
    return field
