"""What the laws share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

from otel_langfuse.langfuse import compression


@pytest.fixture(params=["isal", "zlib"], scope="module")
def compressor(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each of the libraries that may be installed."""
    before = compression._chosen
    compression._chosen = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    yield
    compression._chosen = before
