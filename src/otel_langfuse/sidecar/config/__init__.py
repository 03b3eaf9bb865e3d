"""The sidecar's configuration: the OpenTelemetry Collector's schema, checked strictly.

``load`` goes from a file to a ``Plan``: ``document`` reads YAML and ``expansion`` its ``${…}``; ``components`` validates
each component by the model of its type (``schema``, ``values``, ``kinds``); ``checks``, ``pipelines`` and ``ports`` look at
what no model can know; ``resolve`` puts the plan together. ``problems`` collects all that is wrong on the way.
"""

from __future__ import annotations

from otel_langfuse.sidecar.config.editor_schema import json_schema
from otel_langfuse.sidecar.config.loading import load, parse
from otel_langfuse.sidecar.config.plan import Plan
from otel_langfuse.sidecar.config.project import settings_of
from otel_langfuse.sidecar.config.shown import describe

__all__ = ["Plan", "describe", "json_schema", "load", "parse", "settings_of"]
