"""Where the sidecar listens: no port twice, no sending to itself, and a word about what strangers can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from otel_langfuse.sidecar.config.components import Component
from otel_langfuse.sidecar.config.problems import Problems, Where, path_of
from otel_langfuse.sidecar.config.schema import LangfuseExporter, OtlpGrpcExporter, OtlpHttpExporter
from otel_langfuse.sidecar.config.values import split_address

__all__ = ["Place", "check_places", "check_targets", "is_loopback"]

_ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not bound


@dataclass(frozen=True, slots=True)
class Place:
    """An address that is listened on.

    Attributes:
        where: The path of the key that names it.
        address: Host and port.
        protected: Whether senders must show who they are.
    """

    where: Where
    address: str
    protected: bool


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, as far as its name says so."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_places(places: Sequence[Place], problems: Problems) -> None:
    """Reports ports that are taken twice, and warns of what is open to others."""
    for index, place in enumerate(places):
        host, port = split_address(place.address)
        for other in places[:index]:
            other_host, other_port = split_address(other.address)
            if port and port == other_port and _overlap(host, other_host):
                problems.error(place.where, f"port {port} is taken by {path_of(other.where)}; choose another")
        if not is_loopback(host) and not place.protected:
            text = f"{host} can be reached from other machines and asks for no token; set auth, or listen on 127.0.0.1"
            problems.warn(place.where, text)


def check_targets(exporters: Sequence[Component], places: Sequence[Place], problems: Problems) -> None:
    """Reports exporters that send to the sidecar itself: what they send would come in again, without end."""
    own = [(*split_address(place.address), place) for place in places]
    for exporter in exporters:
        for name, target in _targets(exporter):
            host, port = split_address(target)
            if not port:
                port = 443 if target.startswith("https:") else 80
            for own_host, own_port, place in own:
                same = host == own_host or ((is_loopback(host) or host in _ANY) and (is_loopback(own_host) or own_host in _ANY))
                if port == own_port and same:
                    text = f"port {port} of this machine is the sidecar's own ({path_of(place.where)}); name the backend's"
                    problems.error((*exporter.where, name), text)
                    break


def _targets(exporter: Component) -> list[tuple[str, str]]:
    match exporter.model:
        case OtlpGrpcExporter(endpoint=endpoint):
            return [("endpoint", endpoint)]
        case OtlpHttpExporter() as model:
            names = ("endpoint", "traces_endpoint", "logs_endpoint")
            return [(name, value) for name in names if (value := getattr(model, name))]
        case LangfuseExporter(base_url=url):
            return [("base_url", url)]
        case _:
            return []


def _overlap(one: str, other: str) -> bool:
    if one == other or one in _ANY or other in _ANY:
        return True
    return is_loopback(one) and is_loopback(other) and "localhost" in (one, other)
