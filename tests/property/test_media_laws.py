"""Laws of media in text: what is around stays, JSON stays JSON, a second look finds nothing, time is linear."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_langfuse.langfuse.media import Media, extract, present, substitute
from otel_langfuse.pipeline.masking import Masker

KEY = "langfuse.observation.input"
BOUND = 48
mimes = st.sampled_from(["image/png", "audio/wav", "application/pdf", "image/svg+xml", "a/b", "application/vnd.x-y.z"])
parameters = st.sampled_from(["", ";charset=utf-8", ";name=a%20b.pdf", ";a=b;c=d"])
payloads = st.binary(min_size=0, max_size=4 * BOUND)
# Letters of headers, payloads and escapes, so that text around looks like the thing itself.
texts = st.text(st.sampled_from('data:;bse64,=/\\+-_ "{}[]@u0é€\n') | st.characters(codec="utf-8"), max_size=40)


@st.composite
def urls(draw: st.DrawFn) -> tuple[str, bytes]:
    data = draw(payloads)
    encode = draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
    return f"data:{draw(mimes)}{draw(parameters)};base64,{encode(data).decode()}", data


def looked_at(text: str, bound: int = BOUND) -> tuple[str, tuple[Media, ...]]:
    attributes, media = extract({KEY: text}, bound)
    found = attributes[KEY]
    assert isinstance(found, str)
    return found, media


@given(st.lists(st.tuples(st.text('xyz {}\n"é', max_size=10), urls()), max_size=5), st.text("xyz \n", max_size=10))
def test_text_outside_stays_and_all_large_media_are_found(parts: list[tuple[str, tuple[str, bytes]]], end: str) -> None:
    """A space ends a payload, so that what belongs to it is certain."""
    text = "".join(f"{before}{url} " for before, (url, _) in parts) + end
    found, media = looked_at(text)
    by_data = {one.data: one for one in media}
    wanted = "".join(
        f"{before}{by_data[data].token.replace(by_data[data].mime, mime_of(url)) if len(data) > BOUND else url} "
        for before, (url, data) in parts
    )
    assert found == wanted + end
    assert {data for _, (_, data) in parts if len(data) > BOUND} == set(by_data)


def mime_of(url: str) -> str:
    return url[5:].split(";")[0]


@given(st.lists(texts | urls().map(lambda url: url[0]), max_size=8))
def test_a_second_look_finds_nothing(parts: list[str]) -> None:
    found, media = looked_at("".join(parts))
    assert looked_at(found) == (found, ())
    noted = substitute({KEY: found}, {one: one.note for one in media})
    assert extract(noted, BOUND) == (noted, ())


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | urls().map(lambda url: url[0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


def nested(value: Any) -> Any:
    """The value with data URLs replaced string by string, which is what text must agree with."""
    if isinstance(value, str):
        return looked_at(value)[0]
    if isinstance(value, list):
        return [nested(item) for item in value]
    if isinstance(value, dict):
        return {nested(key): nested(item) for key, item in value.items()}
    return value


@given(json_values, st.booleans(), st.booleans(), st.integers(0, 2))
def test_json_stays_json(value: Any, ascii_only: bool, slashes: bool, depth: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if slashes:
        text = text.replace("/", "\\/")
    for _ in range(depth):
        text = json.dumps(text, ensure_ascii=ascii_only)
    found, _ = looked_at(text)
    for _ in range(depth):
        found = json.loads(found)
    json.loads(found)


plain_urls = urls().map(lambda url: url[0]).filter(lambda url: "=" not in url.split(";base64,")[0])


@given(st.dictionaries(st.text("abc", max_size=3), plain_urls, max_size=4), st.booleans())
def test_escaped_json_holds_the_same_as_its_strings(value: dict[str, str], escaped: bool) -> None:
    """Escaped parameters are not read, so there are none here."""
    text = json.dumps(value)
    if escaped:
        text = text.replace("/", "\\/").replace("+", "\\u002B").replace("=", "\\u003d")
    assert json.loads(looked_at(text)[0]) == nested(value)


@given(st.binary(max_size=40), st.integers(0, 40), st.sampled_from(['"', "'", " ", "", '\\"', '=" ', "é"]), st.booleans())
def test_what_is_larger_than_the_bound_is_taken_whatever_follows(data: bytes, bound: int, end: str, padded: bool) -> None:
    payload = base64.b64encode(data).decode()
    text = f'["data:image/png;base64,{payload if padded else payload.rstrip("=")}{end}'
    found, media = looked_at(text, bound)
    assert [one.data for one in media] == ([data] if len(data) > bound else [])
    assert found == (f'["{media[0].token}{end}' if media and not end.startswith("=") else found)


@given(st.lists(urls(), min_size=2, max_size=5))
def test_urls_without_anything_between(parts: list[tuple[str, bytes]]) -> None:
    """Only padding tells where a payload ends; the media that begin are found all the same."""
    _, media = looked_at("".join(url for url, _ in parts))
    last = parts[-1][1]
    assert len(last) <= BOUND or any(one.data == last for one in media)
    assert len(media) <= len(parts)


@given(st.sampled_from(["\\u00", "\\u000", "\\n", "\\\\", "\\\\u00", "\\\\\\u00"]))
def test_an_escape_is_never_cut(escape: str) -> None:
    url = "data:image/png;base64," + "A" * 200
    text = f'"{escape}{url}{escape}data"'
    json.loads(text)
    json.loads(looked_at(text)[0])


@given(st.binary(min_size=BOUND + 2, max_size=200), st.integers(1, 3))
def test_what_a_limit_has_cut_is_still_media(data: bytes, cut: int) -> None:
    payload = base64.b64encode(data).decode().rstrip("=")[:-cut]
    _, (media,) = looked_at(f"data:image/png;base64,{payload}", 0)
    assert data.startswith(media.data)
    assert len(media.data) >= len(data) - 3


@given(st.binary(min_size=BOUND + 1, max_size=200), mimes)
def test_built_in_masks_leave_tokens_alone(data: bytes, mime: str) -> None:
    masker = Masker.from_settings(("email", "card", "phone", "ip"))
    assert masker is not None
    text = json.dumps({"url": f"data:{mime};base64,{base64.b64encode(data).decode()}"})
    attributes, media = extract({KEY: text}, BOUND)
    masked = {KEY: masker.mask_text(str(attributes[KEY]), "input")}
    assert present(masked, media) == media
    assert present({KEY: "gone"}, media) == ()


@pytest.mark.parametrize(
    "text",
    [
        "data:" * 200_000 + ";base64,",
        "data:a/b" + ";base64," * 200_000,
        "data:a" + "\\" * 1_000_000 + "/b;base64,",
        "data:a/b;base64," + "\\" * 1_000_000,
        "data:a/b;base64," + "\\/" * 500_000,
        "data:a/b;base64," + "A" * 1_000_000,
        "data:a/b;base64,AAAA" * 50_000,
        "data:a/b;base64,data" * 50_000,
        "data:a/b;base64,AAAA" * 150_000 + '"',
        'data:a/b;base64,AAAA"' * 50_000,
        f'data:a/b;base64,{"AAAA" * 20}"' * 10_000,
        ("data:" + ";a" * 3) * 100_000 + ";base64,",
        "data:image/png;" + "a" * 1_000_000 + ";base64,",
    ],
)
def test_time_is_linear(text: str) -> None:
    began = time.process_time()
    looked_at(text)
    assert time.process_time() - began < 5
