"""The JSON Schema of ``otel-config.yaml``, for editors; made from the models.

It knows what the models know: keys, types, defaults, descriptions. Cross references and files are checked by ``load``.
``python -m otel_langfuse.sidecar.config`` prints it; ``collector/otel-config.schema.json`` is that text.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from otel_langfuse.sidecar.config.kinds import ALIASES, KINDS
from otel_langfuse.sidecar.config.schema import Service

__all__ = ["json_schema", "json_schema_text"]

_EXPANSION = {"type": "string", "pattern": r"\$\{"}
# A key without a value is not given, and what looks like a number is a text where a text is wanted.
_TEXT = {"type": ["string", "number", "null"]}
_ANNOTATIONS = ("description", "default", "examples")


def json_schema() -> dict[str, Any]:
    """The schema, draft 2020-12."""
    models: list[type[BaseModel]] = [*dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds.values()), Service]
    refs, definitions = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    named = {model: refs[model, "validation"] for model in models}
    sections: dict[str, Any] = {}
    for section, kinds in KINDS.items():
        known = {**kinds, **{old: kinds[new] for old, new in ALIASES.get(section, {}).items()}}
        patterns = {f"^{name}(/[^/\\s]+)?$": named[kind] for name, kind in known.items()}
        sections[section] = {"type": ["object", "null"], "patternProperties": patterns, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "otel-config.yaml",
        "description": "The configuration of otel-langfuse collector.",
        "type": "object",
        "properties": {**sections, "service": named[Service]},
        "required": ["receivers", "exporters", "service"],
        "additionalProperties": False,
        "$defs": {name: _opened(definition) for name, definition in definitions["$defs"].items()},
    }


def json_schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _opened(model: dict[str, Any]) -> dict[str, Any]:
    """A model's schema, whose values may be ``${…}`` or left out, as YAML allows."""
    model = {key: value for key, value in model.items() if key != "title"}
    if model.get("type") == "object":
        # A key without a value means the defaults, where there are some for everything.
        model["type"] = "object" if model.get("required") else ["object", "null"]
        model["properties"] = {name: _value(schema) for name, schema in model.get("properties", {}).items()}
    return model


def _value(schema: dict[str, Any]) -> dict[str, Any]:
    outside = {key: schema[key] for key in _ANNOTATIONS if key in schema}
    inside = {key: value for key, value in schema.items() if key not in (*_ANNOTATIONS, "title")}
    given = [option for option in inside.get("anyOf", [inside]) if option != {"type": "null"}]
    options = [_option(option) for option in given]
    if _TEXT not in options:
        # A model's own schema says what may stand for it.
        options += [{"type": "null"}] if any("$ref" in option for option in options) else [_EXPANSION, {"type": "null"}]
    return {**outside, **options[0]} if len(options) == 1 else {**outside, "anyOf": options}


def _option(option: dict[str, Any]) -> dict[str, Any]:
    if option.get("type") == "string" and not option.keys() & {"enum", "pattern"}:
        return _TEXT
    if option.get("type") == "object" and option.get("additionalProperties", {}).get("type") == "string":
        return {**option, "additionalProperties": _TEXT}
    return option
