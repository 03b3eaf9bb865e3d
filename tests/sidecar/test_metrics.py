"""The exposition text: every loss has a series of its own, whoever counted it."""

from __future__ import annotations

from typing import Any

from otel_langfuse.sidecar.metrics import exposition


def _status(lost: dict[str, int], dropped: dict[str, int]) -> dict[str, Any]:
    return {
        "intake": {"accepted_items": 5},
        "lost_before_destinations": lost,
        "journal": {"bytes": 1, "entries": 2, "requests": 3, "oldest_seconds": 4.5},
        "destinations": {
            "langfuse": {"sent": 7, "dropped": dropped, "counters": {"requests": 2}, "queue_bytes": 9},
        },
    }


def _dropped(status: dict[str, Any]) -> list[str]:
    return [line for line in exposition(status).decode().splitlines() if line.startswith("otel_langfuse_dropped_total")]


def test_losses_before_destinations_are_shown() -> None:
    assert _dropped(_status({"journal_damaged": 4, "destination_removed": 2}, {"too_large": 1})) == [
        'otel_langfuse_dropped_total{destination="",reason="destination_removed"} 2.0',
        'otel_langfuse_dropped_total{destination="",reason="journal_damaged"} 4.0',
        'otel_langfuse_dropped_total{destination="langfuse",reason="too_large"} 1.0',
    ]


def test_what_expired_belongs_to_its_destination_and_adds_up() -> None:
    lost = {"expired_langfuse": 3, "expired_otlp_http/tempo": 5}
    assert _dropped(_status(lost, {"expired": 2})) == [
        'otel_langfuse_dropped_total{destination="langfuse",reason="expired"} 5.0',
        'otel_langfuse_dropped_total{destination="otlp_http/tempo",reason="expired"} 5.0',
    ]


def test_counts_and_gauges() -> None:
    text = exposition(_status({}, {})).decode()
    assert 'otel_langfuse_sent_total{destination="langfuse"} 7.0' in text
    assert 'otel_langfuse_intake_total{what="accepted_items"} 5.0' in text
    assert 'otel_langfuse_queue_bytes{destination="langfuse"} 9.0' in text
    assert "otel_langfuse_journal_oldest_seconds 4.5" in text
    assert "otel_langfuse_dropped_total{" not in text
