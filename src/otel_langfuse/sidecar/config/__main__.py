"""``python -m otel_langfuse.sidecar.config`` prints the JSON Schema of ``otel-config.yaml``."""

from __future__ import annotations

import sys

from otel_langfuse.sidecar.config.editor_schema import json_schema_text

sys.stdout.write(json_schema_text())
