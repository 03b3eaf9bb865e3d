"""propagate_attributes and propagated: merging, sources, and every way to enter and leave."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import inspect
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value, set_value

from otel_langfuse.counters import OncePerInterval
from otel_langfuse.sdk import context as module
from otel_langfuse.sdk.context import Propagated, propagate_attributes, propagated


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every test starts in an empty context and ends in it, with nothing logged by OpenTelemetry."""
    monkeypatch.setattr(module, "_may_warn", OncePerInterval(60.0))
    token = attach(Context())
    yield
    assert get_current() == Context()
    detach(token)
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def user() -> str | None:
    found = propagated()
    return found.user_id if found else None


def sdk_context(**values: object) -> Context:
    context = Context()
    for name, value in values.items():
        context = set_value(f"langfuse.propagated.{name}", value, context)
    return context


def baggage_context(**values: object) -> Context:
    context = Context()
    for name, value in values.items():
        context = baggage.set_baggage(name.replace("__", "."), value, context)
    return context


def test_nothing_is_none() -> None:
    assert propagated() is None
    assert propagated(set_value("other", 1)) is None
    assert propagated(baggage=True) is None
    assert propagated(baggage_context(other="x"), baggage=True) is None


def test_all_fields() -> None:
    texts = {"user_id": "u", "session_id": "s", "trace_name": "n", "version": "v", "release": "r", "environment": "e"}
    with propagate_attributes(**texts, tags=["a", "b", "a"], metadata={"k": "v"}):
        assert propagated() == Propagated(**texts, tags=("a", "b"), metadata={"k": "v"})
        assert propagated() is propagated()
    assert propagated() is None


def test_nested_calls_merge() -> None:
    with propagate_attributes(user_id="u", session_id="s", tags=["a", "b"], metadata={"x": "1", "y": "1"}):
        with propagate_attributes(session_id="s2", tags=["b", "c"], metadata={"y": "2", "z": "2"}, user_id=None):
            assert propagated() == Propagated(
                user_id="u", session_id="s2", tags=("a", "b", "c"), metadata={"x": "1", "y": "2", "z": "2"}
            )
        found = propagated()
    assert found == Propagated(user_id="u", session_id="s", tags=("a", "b"), metadata={"x": "1", "y": "1"})


def test_persona() -> None:
    with propagate_attributes(persona="tester"):
        assert propagated() == Propagated(user_id="tester", metadata={"persona": "tester"})
        with propagate_attributes(persona="other"):
            assert propagated() == Propagated(user_id="other", metadata={"persona": "other"})
        with propagate_attributes(user_id="u"):
            assert propagated() == Propagated(user_id="u", metadata={"persona": "tester"})
    with propagate_attributes(user_id="u"), propagate_attributes(persona="tester"):
        assert propagated() == Propagated(user_id="u", metadata={"persona": "tester"})
    with propagate_attributes(user_id="u", persona="tester", metadata={"persona": "x"}):
        assert propagated() == Propagated(user_id="u", metadata={"persona": "tester"})
    token = attach(sdk_context(user_id="given"))
    with propagate_attributes(persona="tester"):
        assert propagated() == Propagated(user_id="given", metadata={"persona": "tester"})
    detach(token)


def test_result_cannot_be_changed() -> None:
    metadata = {"k": "v"}
    with propagate_attributes(metadata=metadata):
        metadata["k"] = "changed"
        found = propagated()
        assert found is not None
        assert found.metadata == {"k": "v"}
        with pytest.raises(TypeError):
            found.metadata["k"] = "x"  # type: ignore[index]
        with pytest.raises(AttributeError):
            found.user_id = "x"  # type: ignore[misc]


def test_langfuse_sdk_context() -> None:
    context = sdk_context(
        user_id="u",
        session_id="s",
        tags=["b"],
        metadata={"variant": '"a"', "n": "1", "o": '{"a":1}', "broken": '"'},
        trace_name="t",
        version="v",
        environment="e",
        prompt_name="ignored",
    )
    expected = {"variant": "a", "n": "1", "o": '{"a":1}', "broken": '"'}
    assert propagated(context) == Propagated("u", "s", ("b",), expected, trace_name="t", version="v", environment="e")
    assert propagated(sdk_context(prompt_name="only")) is None
    token = attach(context)
    with propagate_attributes(user_id="ours", tags=["a"], metadata={"n": "2"}):
        found = propagated()
    detach(token)
    assert found is not None
    assert (found.user_id, found.session_id, found.tags) == ("ours", "s", ("a", "b"))
    assert found.metadata == expected | {"n": "2"}


def test_sdk_call_inside_ours_is_read_at_the_time() -> None:
    token = attach(sdk_context(session_id="outer"))
    with propagate_attributes(user_id="u"):
        inner = attach(set_value("langfuse.propagated.session_id", "inner"))
        assert propagated() == Propagated(user_id="u", session_id="inner")
        detach(inner)
    detach(token)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"user__id": "u", "session__id": "s"}, Propagated(user_id="u", session_id="s")),
        ({"enduser__id": "u"}, Propagated(user_id="u")),
        ({"langfuse_user_id": "sdk", "langfuse__user__id": "u", "user__id": "x"}, Propagated(user_id="u")),
        ({"langfuse_session_id": "s", "langfuse_tags": "['a', 'b']"}, Propagated(session_id="s", tags=("a", "b"))),
        ({"langfuse_tags": ["a", "b"]}, Propagated(tags=("a", "b"))),
        ({"langfuse__trace__tags": '["a","b"]'}, Propagated(tags=("a", "b"))),
        ({"langfuse__trace__tags": " a, b ,"}, Propagated(tags=("a", "b"))),
        (
            {"langfuse__trace__metadata__k": "v", "langfuse_metadata_k": "x", "langfuse_metadata_s": '"t"'},
            Propagated(metadata={"k": "v", "s": "t"}),
        ),
        (
            {
                "langfuse_trace_name": "n",
                "langfuse_version": "v",
                "langfuse__release": "r",
                "langfuse_environment": "e",
            },
            Propagated(trace_name="n", version="v", release="r", environment="e"),
        ),
    ],
)
def test_baggage_only_when_switched_on(entries: dict[str, object], expected: Propagated) -> None:
    context = baggage_context(**entries)
    assert propagated(context) is None
    assert propagated(context, baggage=True) == expected


def test_ours_beats_sdk_beats_baggage() -> None:
    context = baggage.set_baggage("user.id", "b", sdk_context(user_id="s", version="s"))
    context = baggage.set_baggage("session.id", "b", baggage.set_baggage("langfuse.version", "b", context))
    assert propagated(context, baggage=True) == Propagated(user_id="s", version="s", session_id="b")
    token = attach(context)
    with propagate_attributes(user_id="o"):
        assert propagated(baggage=True) == Propagated(user_id="o", version="s", session_id="b")
    detach(token)


class Color(str, enum.Enum):  # noqa: UP042 - this is the kind whose str() is not its text
    RED = "red"


class Nasty:
    def __str__(self) -> str:
        raise RuntimeError("hunter2")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("hunter2")


def test_values_become_strings() -> None:
    number = uuid.uuid4()
    with propagate_attributes(user_id=7, session_id=number, trace_name=Color.RED, tags="one", metadata={1: 2.5}):
        assert propagated() == Propagated("7", str(number), ("one",), {"1": "2.5"}, trace_name="red")
    with propagate_attributes(tags=(tag for tag in (1, None, "x", "")), metadata={"a": None, "b": [1, {"é": True}]}):
        assert propagated() == Propagated(tags=("1", "x"), metadata={"b": '[1, {"é": true}]'})
    with propagate_attributes(user_id=""):
        assert user() is None


@pytest.mark.parametrize(
    "given",
    [
        {"user_id": Nasty()},
        {"user_id": {"id": 1}},
        {"session_id": b"x"},
        {"tags": 5},
        {"tags": Nasty()},
        {"tags": {"a": 1}},
        {"tags": [Nasty(), Nasty()]},
        {"metadata": "text"},
        {"metadata": {"k": Nasty(), "l": Nasty()}},
        {"metadata": {Nasty(): "v"}},
    ],
)
def test_bad_values_are_left_out_with_one_warning(given: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "otel_langfuse"):
        for _ in range(2):
            with propagate_attributes(**given, version="v"):
                assert propagated() == Propagated(version="v")
    (message,) = caplog.messages
    assert next(iter(given)) in message
    assert "hunter2" not in caplog.text


def test_exception_passes_through() -> None:
    with pytest.raises(KeyError), propagate_attributes(user_id="u"):
        raise KeyError
    assert propagated() is None


def test_one_object_can_be_entered_again_and_nested() -> None:
    attributes = propagate_attributes(tags=["a"])
    with attributes:
        with attributes:
            assert propagated() == Propagated(tags=("a",))
        assert propagated() == Propagated(tags=("a",))
    assert propagated() is None
    with attributes:
        assert propagated() == Propagated(tags=("a",))


def test_async_with_and_tasks() -> None:
    attributes = propagate_attributes(user_id="u")
    seen = []

    async def work(first: asyncio.Event, second: asyncio.Event) -> None:
        async with attributes:
            first.set()
            await second.wait()
            seen.append(user())
        seen.append(user())

    async def main() -> None:
        one, two = asyncio.Event(), asyncio.Event()
        await asyncio.gather(work(one, two), work(two, one))
        async with propagate_attributes(user_id="parent"):
            await asyncio.create_task(child())

    async def child() -> None:
        seen.append(user())

    asyncio.run(main())
    assert sorted(map(str, seen[:4])) == ["None", "None", "u", "u"]
    assert seen[4] == "parent"


def test_threads_do_not_see_each_other() -> None:
    seen: list[str | None] = []
    with propagate_attributes(user_id="u"):
        thread = threading.Thread(target=lambda: seen.append(user()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_leaving_elsewhere_does_nothing() -> None:
    attributes = propagate_attributes(user_id="u")
    elsewhere = contextvars.copy_context()
    elsewhere.run(attributes.__enter__)
    attributes.__exit__(None, None, None)
    assert propagated() is None
    contextvars.Context().run(attributes.__exit__, None, None, None)
    assert elsewhere.run(user) == "u"
    inside = elsewhere.copy()
    inside.run(attributes.__exit__, None, None, None)
    assert inside.run(user) == "u"
    elsewhere.run(attributes.__exit__, None, None, None)
    elsewhere.run(attributes.__exit__, None, None, None)
    assert elsewhere.run(user) is None


def test_leaving_in_the_wrong_order() -> None:
    outer, inner = propagate_attributes(user_id="outer"), propagate_attributes(user_id="inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert user() is None
    inner.__exit__(None, None, None)
    assert user() is None


def test_decorated_function() -> None:
    @propagate_attributes(user_id="u")
    def function(a: int, *, b: int) -> tuple[int, str | None]:
        """Doc."""
        return a + b, user()

    assert function(1, b=2) == (3, "u")
    assert (function.__name__, function.__doc__) == ("function", "Doc.")
    with propagate_attributes(user_id="outer", session_id="s"):
        assert function(1, b=2) == (3, "u")
        assert user() == "outer"


def test_decorated_coroutine_function() -> None:
    @propagate_attributes(user_id="u")
    async def function() -> str | None:
        await asyncio.sleep(0)
        return user()

    class Callable:
        async def __call__(self) -> str | None:
            return user()

    wrapped = propagate_attributes(user_id="object")(Callable())
    partial = propagate_attributes(user_id="partial")(functools.partial(function))
    assert inspect.iscoroutinefunction(function)
    assert asyncio.run(function()) == "u"
    assert asyncio.run(wrapped()) == "object"
    assert inspect.iscoroutinefunction(partial)


SPAN = create_key("span")


def test_decorated_generator() -> None:
    log: list[Any] = []

    @propagate_attributes(user_id="u")
    def generator(start: int) -> Iterator[Any]:
        token = attach(set_value(SPAN, "span"))
        try:
            log.append((yield start))
            try:
                yield user(), get_value(SPAN)
            except KeyError:
                yield "caught", user(), get_value(SPAN)
        finally:
            log.append(user())
            detach(token)
        log.append(get_value(SPAN))
        return "result"

    running: Any = generator(1)
    assert inspect.isgeneratorfunction(generator)
    assert user() is None
    assert next(running) == 1
    assert (user(), get_value(SPAN)) == (None, None)
    assert running.send("sent") == ("u", "span")
    assert running.throw(KeyError()) == ("caught", "u", "span")
    assert user() is None
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "result"
    assert log == ["sent", "u", None]


def test_decorated_generator_closed_early_or_failing() -> None:
    log = []

    @propagate_attributes(user_id="u")
    def generator() -> Iterator[int]:
        try:
            yield 1
        finally:
            log.append(user())
        raise LookupError

    running: Any = generator()
    next(running)
    running.close()
    assert log == ["u"]
    assert user() is None
    with pytest.raises(LookupError):
        list(generator())
    assert user() is None


def test_decorated_async_generator() -> None:
    log: list[Any] = []

    @propagate_attributes(user_id="u")
    async def generator(start: int) -> AsyncIterator[Any]:
        token = attach(set_value(SPAN, "span"))
        try:
            log.append((yield start))
            await asyncio.sleep(0)
            try:
                yield user(), get_value(SPAN)
            except KeyError:
                yield "caught", user(), get_value(SPAN)
            yield "last"
        finally:
            log.append(user())
            detach(token)

    async def main() -> None:
        running: Any = generator(1)
        assert await anext(running) == 1
        assert (user(), get_value(SPAN)) == (None, None)
        assert await running.asend("sent") == ("u", "span")
        assert await running.athrow(KeyError()) == ("caught", "u", "span")
        assert user() is None
        assert await anext(running) == "last"
        with pytest.raises(StopAsyncIteration):
            await anext(running)
        running = generator(2)
        await anext(running)
        await running.aclose()
        assert user() is None

    assert inspect.isasyncgenfunction(generator)
    asyncio.run(main())
    assert log == ["sent", "u", "u"]


def test_async_generator_moved_between_tasks() -> None:
    @propagate_attributes(user_id="u")
    async def generator() -> AsyncIterator[str | None]:
        yield user()
        await asyncio.sleep(0)
        yield user()

    async def main() -> list[str | None]:
        running: Any = generator()
        return [await asyncio.create_task(step(running)), await asyncio.create_task(step(running)), user()]

    async def step(running: Any) -> str | None:
        return await running.__anext__()  # type: ignore[no-any-return]

    assert asyncio.run(main()) == ["u", "u", None]
