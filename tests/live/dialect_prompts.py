"""What the applications of the dialect tests say; their scripts and their tests import it."""

from __future__ import annotations

__all__ = ["FAILING", "MODEL", "SYSTEM", "get_weather", "said"]

MODEL = "gpt-4o-mini"
FAILING = "no-such-model"
SYSTEM = "SYSTEM-INSTRUCTION-TEXT be brief"


def said(name: str, question: str = "") -> str:
    """The prompt of a scenario, by which its requests are found again."""
    return f"USER-PROMPT-TEXT <{name}> {question}".strip()


def get_weather(city: str) -> str:
    """TOOL-DESCRIPTION-TEXT the weather in a city."""
    return f"TOOL-RESULT-TEXT {city} 20 degrees"
