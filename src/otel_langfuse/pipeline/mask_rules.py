"""The built-in masks: each finds one kind of personal or secret value in a text.

Rules:
    - A finder returns spans in order, without overlap, with their replacement. It sees escapes of JSON as one ``\\x00``
      each, and no pattern here can match that character, so a span never cuts an escape.
    - Every finder takes time linear in the text: runs are entered only at their start, or have a bound.
    - Boundaries look at ASCII only, so that a number between Chinese characters is found.
    - ``phone`` is careful (plain integers, dates, decimals and ids stay); ``card``, ``iban`` and ``ip`` check what they
      found; ``key`` knows the prefixes of issuers.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

__all__ = ["BUILT_IN", "ESCAPE_MARK", "Finder", "Span"]

ESCAPE_MARK = "\x00"

Span = tuple[int, int, str]
Finder = Callable[[str], Iterator[Span]]

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]++@(?:[\w-]++\.)+[^\W\d_]{2,63}")

# What an issuer's key looks like after its prefix. Words with dashes ("sk-learn-based") are no keys: a digit within
# reach, or one long run of letters and digits.
_KEY_BODIES = {
    "sk-lf-": r"[\w-]{4,}+",
    "pk-lf-": r"[\w-]{4,}+",
    "sk-ant-": r"[\w-]{8,}+",
    "sk-proj-": r"[\w-]{8,}+",
    "sk-svcacct-": r"[\w-]{8,}+",
    "sk-admin-": r"[\w-]{8,}+",
    "sk-or-": r"[\w-]{8,}+",
    "sk-": r"(?:[A-Za-z0-9]{20,}+[\w-]*+|(?=[A-Za-z_-]{0,200}[0-9])[\w-]{12,}+)",
    "sk_live_": r"[A-Za-z0-9]{8,}+",
    "sk_test_": r"[A-Za-z0-9]{8,}+",
    "rk_live_": r"[A-Za-z0-9]{8,}+",
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "gsk_"), r"[A-Za-z0-9]{20,}+"),
    "github_pat_": r"\w{20,}+",
    **dict.fromkeys(("AKIA", "ASIA"), r"[0-9A-Z]{16}(?![0-9A-Za-z])"),
    **dict.fromkeys(("xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-"), r"[A-Za-z0-9-]{10,}+"),
    "AIza": r"[\w-]{30,}+",
    "eyJ": r"[\w-]{5,}+\.[\w-]{5,}+\.[\w-]*+",
}


def _key_pattern(prefix: str, body: str) -> re.Pattern[str]:
    """The prefix after anything but a letter or digit, or after a percent-encoded character, then the body.

    What must stand before is looked up behind the prefix, so that the search runs at the speed of finding the prefix.
    """
    # A part of a JWT may hold dashes; starting only before all of them keeps the scan linear.
    before = r"[\w-]" if prefix == "eyJ" else "[A-Za-z0-9]"
    return re.compile(rf"{prefix}(?:(?<!{before}{prefix})|(?<=%[0-9A-Fa-f]{{2}}{prefix})){body}", re.ASCII)


_KEYS = [(prefix, _key_pattern(prefix, body)) for prefix, body in _KEY_BODIES.items()]
# "the bearer of bad news" is prose: a token has a digit or is long.
_BEARER = re.compile(
    r"(?<![A-Za-z0-9])bearer[ \t]{1,8}((?=[A-Za-z._~+/=-]{0,200}[0-9])[\w.~+/=-]{6,}+|[\w.~+/=-]{16,}+)",
    re.ASCII | re.IGNORECASE,
)

_DIGIT_CHAIN = re.compile(r"[0-9](?:[ -]?[0-9]){12,}+")
_DOUBLED = str.maketrans("0123456789", "0246813579")
_DIGITS = re.compile(r"[0-9]+")
_CONTAINER = re.compile(r"[ \t\r\n]*[\[{]")
_CARD_SHAPES = ((4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 1), (4, 4, 5))

_IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}))")
_IBAN_LENGTHS = {
    length: frozenset(countries.split())
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
}
_IBAN_LENGTH = {country: length for length, countries in _IBAN_LENGTHS.items() for country in countries}

_WORD = re.compile(r"[A-Za-z0-9]")

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![0-9A-Za-z_])(?<![0-9]\.){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9A-Za-z_]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z_:])(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{3,39}+(?![0-9A-Za-z_:]|\.[0-9])")

_INTERNATIONAL = re.compile(r"(?<![A-Za-z0-9_+])\+(?=[1-9])")
# The next digits with what separates them from the last, unless they begin a date.
_PHONE_GROUP = re.compile(r"(\)?[ .\-/]?\(?)(?![0-9]{4}-[0-9]{2}-[0-9]{2})([0-9]{1,16})")
_NATIONAL = re.compile(
    r"(?<![A-Za-z0-9_+])(?<![0-9A-Za-z][.\-/])(?:"
    r"(?:1[ .-])?\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}"  # (212) 555-1234
    r"|(?:1[.-])?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}"  # 212-555-1234, 1-800-555-0100
    r"|[2-9][0-9]{2} [2-9][0-9]{2}-[0-9]{4}"  # 212 555-1234
    r"|\(0[1-9][0-9]{1,4}\) ?[0-9]{3,4}[ -]?[0-9]{3,5}"  # (030) 1234567
    r"|0[1-9][0-9]{1,3}[/-][0-9]{7,8}"  # 030/1234567
    # Numbers in a row are no phone number, so these stand alone.
    r"|(?<![0-9] )(?:"
    r"0[1-9]([ .-])[0-9]{2}(?:\2[0-9]{2}){3}(?!\2[0-9])"  # 06 12 34 56 78
    r"|0[1-9][0-9]{1,3} (?:[0-9]{7,8}|[0-9]{3,4} [0-9]{3,4})(?! [0-9])"  # 0151 23456789, 020 7946 0958
    r")"
    r")(?![A-Za-z0-9_]|[.\-/][0-9])"
)
_NO_PHONE_END = re.compile(r"[A-Za-z0-9_]|\.[0-9]")


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.start(), match.end(), "[email]"


def _keys(text: str) -> Iterator[Span]:
    spans = [match.span() for prefix, pattern in _KEYS if prefix in text for match in pattern.finditer(text)]
    if "earer" in text or "EARER" in text:
        spans += [match.span(1) for match in _BEARER.finditer(text)]
    end = 0
    for start, stop in sorted(spans):
        # A token may be found twice, after "Bearer" and by its prefix; what sticks out is masked too.
        if stop > end:
            yield max(start, end), stop, "[key]" if start >= end else ""
            end = stop


def _luhn(digits: str) -> bool:
    odd, even = digits[-1::-2], digits[-2::-2]
    total = sum(map(int, odd)) + sum(map(int, even.translate(_DOUBLED)))
    return total % 10 == 0 and digits.strip("0") != ""


def _card_groups(text: str, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """The groups of digits in a chain, without those that belong to a decimal number."""
    groups: list[tuple[int, int]] = []
    for match in _DIGITS.finditer(text, start, end):
        left, right = match.span()
        fraction = left > 1 and text[left - 1] == "." and text[left - 2].isdigit()
        whole = text[right : right + 1] == "." and text[right + 1 : right + 2].isdigit()
        if fraction or whole:
            yield groups
            groups = []
        else:
            groups.append((left, right))
    yield groups


def _cards_in(text: str, groups: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cards in one chain: all of it where it is evenly separated, else groups of the shape of a card."""

    def valid(first: int, last: int) -> bool:
        digits = "".join(text[left:right] for left, right in groups[first:last])
        return 13 <= len(digits) <= 19 and _luhn(digits)

    separators = {text[right] for _, right in groups[:-1]}
    if len(groups) <= 19 and len(separators) <= 1 and valid(0, len(groups)):
        yield groups[0][0], groups[-1][1]
        return
    lengths = [right - left for left, right in groups]
    at = 0
    while at < len(groups):
        # Most groups begin no card; the first length says so at once.
        shapes = _CARD_SHAPES if lengths[at] == 4 else ((lengths[at],),)
        sizes = (len(shape) for shape in shapes if tuple(lengths[at : at + len(shape)]) == shape)
        size = next((size for size in sizes if valid(at, at + size)), 0)
        if size:
            yield groups[at][0], groups[at + size - 1][1]
        at += size or 1


def _cards(text: str) -> Iterator[Span]:
    container = _CONTAINER.match(text) is not None
    quotes = seen = 0
    for chain in _DIGIT_CHAIN.finditer(text):
        for groups in _card_groups(text, *chain.span()):
            for start, end in _cards_in(text, groups):
                quotes += text.count('"', seen, start)
                seen = start
                outside = container and quotes % 2 == 0
                first = start - (text[start - 1] == "-") if outside else start
                if not outside or not _before_value(text, first):
                    yield start, end, "[card]"
                # Outside of strings only a quoted replacement keeps JSON valid; 4111111111111111e5 is no card.
                elif text[end : end + 1] not in {"e", "E"}:
                    yield first, end, '"[card]"'


def _before_value(text: str, at: int) -> bool:
    """Whether a JSON value may begin at ``at``, judged by what stands before it."""
    while at and text[at - 1] in " \t\r\n":
        at -= 1
    return text[at - 1] in ":,["


def _ibans(text: str) -> Iterator[Span]:
    done = 0
    for match in _IBAN.finditer(text):
        start, body = match.start(), match.group(1)
        length = _IBAN_LENGTH.get(body[:2].upper())
        if start < done or length is None:
            continue
        size = characters = 0
        for character in body:
            size += 1
            characters += character not in " -"
            if characters == length:
                break
        end = start + size
        if characters < length or _WORD.match(text, end):
            continue
        plain = body[:size].replace(" ", "").replace("-", "")
        if int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1:
            yield start, end, "[iban]"
            done = end


def _ips(text: str) -> Iterator[Span]:
    spans = [match.span() for match in _IPV4.finditer(text)]
    if "::" in text or text.count(":") > 6:
        for match in _IPV6.finditer(text):
            # Without a digit it is more likely a qualified name (Abc::Def) than an address.
            if any(character.isdigit() for character in match.group()):
                try:
                    socket.inet_pton(socket.AF_INET6, match.group())
                except OSError:
                    continue
                spans.append(match.span())
    for start, end in sorted(spans):
        yield start, end, "[ip]"


def _international(text: str) -> Iterator[tuple[int, int]]:
    for match in _INTERNATIONAL.finditer(text):
        at, best, digits = match.end(), 0, 0
        separators: list[str] = []
        for _ in range(9):
            group = _PHONE_GROUP.match(text, at)
            if group is None or digits + len(group[2]) > 15 or (digits and not group[1]):
                break
            if digits:
                separators.append(group[1])
            digits += len(group[2])
            at = group.end()
            # One dot alone makes a signed decimal, and a short run without any separator a signed integer.
            enough = digits >= 8 if separators else digits >= 9
            decimal = "." in separators and (len(separators) == 1 or set(separators) != {"."})
            if enough and not decimal and not _NO_PHONE_END.match(text, at):
                best = at
        if best:
            yield match.start(), best


def _phones(text: str) -> Iterator[Span]:
    done = 0
    national = [match.span() for match in _NATIONAL.finditer(text)]
    for start, end in sorted([*_international(text), *national]):
        if start >= done:
            yield start, end, "[phone]"
            done = end


# In this order: a rule sees what those before it have left.
BUILT_IN: dict[str, Finder] = {
    "key": _keys,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ip": _ips,
    "phone": _phones,
}
