"""The user's own rules: which span attribute feeds which Langfuse field, applied after the dialects.

What the user says of an attribute by name is more specific than what any convention says, so it wins over them;
``propagate_attributes`` still comes first. The attribute stays metadata, too, unless the rule makes it metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.reading import as_text
from otel_langfuse.model import Facts, SpanView

__all__ = ["apply_rules"]

_FIELDS = {
    "user.id": "user",
    "session.id": "session",
    "trace.name": "trace_name",
    "release": "release",
    "version": "version",
    "environment": "environment",
}
_METADATA = "metadata."
_OBSERVATION_METADATA = "observation.metadata."


def apply_rules(rules: Mapping[str, str], view: SpanView, facts: Facts) -> None:
    """Fills fields of ``facts`` from the attributes that ``rules`` name.

    Args:
        rules: Attribute key to target: ``user.id``, ``session.id``, ``trace.name``, ``tags``, ``release``, ``version``,
            ``environment``, ``metadata.<name>`` (of the trace), ``observation.metadata.<name>``.
        view: The span.
        facts: What the readers found; changed in place.
    """
    for key, target in rules.items():
        text = as_text(view.attributes.get(key))
        if text is None:
            continue
        if target == "tags":
            raw = view.attributes.get(key)
            given = [str(item) for item in raw] if isinstance(raw, list) else [part.strip() for part in text.split(",")]
            facts.tags = tuple(dict.fromkeys((*facts.tags, *(tag for tag in given if tag))))
        elif target.startswith(_METADATA):
            facts.trace_metadata[target[len(_METADATA) :]] = text
            facts.consumed.add(key)
        elif target.startswith(_OBSERVATION_METADATA):
            facts.metadata[target[len(_OBSERVATION_METADATA) :]] = text
            facts.consumed.add(key)
        else:
            setattr(facts, _FIELDS[target], text)
