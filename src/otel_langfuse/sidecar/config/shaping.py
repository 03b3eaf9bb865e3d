"""Items to the plain data that a model validates: what is not given goes, what nobody knows is reported.

Rules:

- A key without a value means the defaults where a mapping is wanted (``grpc:``), and "not given" elsewhere. A text that
  expands to nothing is not given either; when that is because a variable is not set, there is a warning.
- Where a list or a mapping is wanted, a whole ``${…}`` may hold one in YAML's flow style (``[a, b]``).
- An unknown key is reported with the nearest known one, or what to use instead, and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.document import Item, read
from otel_langfuse.sidecar.config.kinds import INSTEAD_OF_KEYS
from otel_langfuse.sidecar.config.problems import Problems, Where, known_list, suggestion

__all__ = ["Shaper"]

_ABSENT: Any = object()


class _Shape(NamedTuple):
    kind: str  # "model", "list", "map" or "scalar"
    model: type[BaseModel] | None = None
    inner: Any = str


def _shape_of(annotation: Any) -> _Shape:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _shape_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _shape_of(next(arg for arg in get_args(annotation) if arg is not type(None)))
    if origin is tuple:
        return _Shape("list", inner=get_args(annotation)[0])
    if origin is dict:
        return _Shape("map", inner=get_args(annotation)[1])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _Shape("model", annotation)
    return _Shape("scalar")


class Shaper:
    """Shapes items by the models that will validate them, and remembers what became of each.

    Attributes:
        items: By path, the item that stood there.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self.items: dict[Where, Item] = {}

    def mapping(self, item: Item, where: Where) -> dict[str, Item] | None:
        """The children of what must be a mapping; ``None``, reported, when it is none."""
        self.items[where] = item
        value = self._unfolded(item, "{", where)
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        if not item.broken:
            self._problems.error(where, "is no mapping; write its keys below it, indented")
        return None

    def model(self, kind: type[BaseModel], item: Item, where: Where) -> dict[str, Any] | None:
        """The data of a model; ``None``, reported, when the item is no mapping."""
        children = self.mapping(item, where)
        if children is None:
            return None
        data: dict[str, Any] = {}
        for key, child in children.items():
            field = kind.model_fields.get(key)
            if field is None:
                self._unknown(key, kind, (*where, key))
                continue
            value = self._value(_shape_of(field.annotation), child, (*where, key))
            if value is not _ABSENT:
                data[key] = value
            elif child.unset and not field.is_required():
                self._warn_unset(child, (*where, key))
        return data

    def _value(self, shape: _Shape, item: Item, where: Where) -> Any:
        self.items[where] = item
        if item.broken:
            return _ABSENT
        if shape.model is not None:
            if item.names and not item.value:
                return _ABSENT
            data = self.model(shape.model, item, where)
            return _ABSENT if data is None else data
        if item.value is None or item.value == "":
            return _ABSENT
        if shape.kind == "list":
            value = self._unfolded(item, "[", where)
            return self._list(shape, value, where) if isinstance(value, list) else _plain(value)
        if shape.kind == "map":
            value = self._unfolded(item, "{", where)
            return self._map(shape, value, where) if isinstance(value, dict) else _plain(value)
        return item.plain

    def _list(self, shape: _Shape, items: list[Item], where: Where) -> list[Any]:
        values = [self._value(_shape_of(shape.inner), child, (*where, i)) for i, child in enumerate(items)]
        return [value for value in values if value is not _ABSENT]

    def _map(self, shape: _Shape, items: Mapping[str, Item], where: Where) -> dict[str, Any]:
        data = {}
        for key, child in items.items():
            value = self._value(_shape_of(shape.inner), child, (*where, key))
            if value is not _ABSENT:
                data[key] = value
            elif child.unset:
                self._warn_unset(child, (*where, key))
        return data

    def _warn_unset(self, item: Item, where: Where) -> None:
        name, state = item.unset[0]
        self._problems.warn(where, f"{name} {state}, so this counts as not given; write ${{env:{name}:-}} if it may be")

    def _unfolded(self, item: Item, opening: str, where: Where) -> Any:
        """The item's value, read as YAML where a whole ``${…}`` holds a list or mapping."""
        if not (item.whole and isinstance(item.value, str)):
            return item.value
        if not item.value:
            return None
        if not item.value.lstrip().startswith(opening):
            return item.value
        inside = Problems(self._problems.source)
        try:
            # An empty environment: what comes from outside is not expanded again, it is an error.
            root = read(item.value.replace("$", "$$"), {}, inside)
            inside.raise_found()
        except ConfigError:
            self._problems.error(where, "its variable holds no readable YAML; mend it, a list is written [a, b]")
            item.broken = True
            return None
        return root.value if root is not None else None

    def _unknown(self, key: str, kind: type[BaseModel], where: Where) -> None:
        near = suggestion(key, kind.model_fields)
        if key in INSTEAD_OF_KEYS and not near:
            self._problems.error(where, f"is not known here; {INSTEAD_OF_KEYS[key]}")
        else:
            self._problems.error(where, f"is an unknown key{near}; known here: {known_list(kind.model_fields)}")


def _plain(value: Any) -> Any:
    """Data for a validator that will refuse it."""
    return Item(value, 0).plain
