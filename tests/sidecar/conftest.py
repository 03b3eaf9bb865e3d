"""What several tests of the sidecar need: a gRPC listener, a client of it, and its event loops."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from sidecar.http2_client import Wire
from sidecar.receiving import Bench, grpc_protocol, receiving


@pytest.fixture(scope="session")
def uvloop(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """uvloop, which is not installed where the other tests run, so that they use what most users have."""
    folder = tmp_path_factory.mktemp("uvloop")
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "-q", "--target", str(folder), "uvloop"], check=True, timeout=120
    )
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("uvloop")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("uvloop", None)
    return module


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of event loops that a listener may run on."""
    module = request.getfixturevalue("uvloop") if request.param == "uvloop" else None
    monkeypatch.setitem(sys.modules, "uvloop", module)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with receiving(grpc_protocol()) as started:
        yield started


@pytest.fixture
def wire(bench: Bench) -> Iterator[Wire]:
    with Wire(bench.address) as made:
        yield made
