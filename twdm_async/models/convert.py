"""JSON to models and back, losing nothing.

A model is flat; the API's JSON is nested. Each field of a model says with :func:`at` where in the JSON it lives.
Structuring takes those values out and keeps **what is left, in its own shape**, in the model's ``extra``. Unstructuring
lays the values back over ``extra``. So a field that the API adds tomorrow, or one we do not model, is there for whoever
needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import cattrs
from attrs import NOTHING, fields, frozen, has, resolve_types

from twdm_async._json import Json, is_array, is_object
from twdm_async.models.checks import is_id

Path = tuple[str, ...]


@frozen
class Kind:
    """How one sort of value is read from JSON and written to it.

    Args:
        read: raises ValueError on anything else.
        write: the other way.
        vital: whether an object is worth nothing if this cannot be read, even where it may be absent.
    """

    read: Callable[[Json], Any]
    write: Callable[[Any], Json]
    vital: bool = False


def _read_id(value: Json) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and is_id(value):
        return value
    raise ValueError("not an id")


def _read_milliseconds(value: Json) -> datetime:
    digits = _read_id(value)
    if len(digits) > 15:  # the year 33658; datetime itself ends in 9999
        raise ValueError("not a time in milliseconds")
    seconds, milliseconds = divmod(int(digits), 1000)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
    except (OverflowError, OSError) as error:
        raise ValueError("not a time in milliseconds") from error


def _write_milliseconds(value: datetime) -> str:
    return str(int(value.timestamp()) * 1000 + value.microsecond // 1000)


# strftime and strptime would spell days and months as the machine's locale does.
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SPELLED: Final = re.compile(r"\w{3} (\w{3}) (\d\d) (\d\d:\d\d:\d\d) ([+-]\d{4}) (\d{4})", re.ASCII)


def _read_spelled_time(value: Json) -> datetime:
    found = _SPELLED.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("not a time as the API spells it")
    month, day, clock, zone, year = found.groups()
    try:
        return datetime.fromisoformat(f"{year}-{_MONTHS.index(month) + 1:02}-{day}T{clock}{zone}").astimezone(UTC)
    except OverflowError as error:
        raise ValueError("not a time as the API spells it") from error


def _write_spelled_time(value: datetime) -> str:
    return f"{_DAYS[value.weekday()]} {_MONTHS[value.month - 1]} {value:%d %H:%M:%S %z %Y}"


def _of(type_: type) -> Callable[[Json], Any]:
    def read(value: Json) -> Any:
        if isinstance(value, type_) and not (type_ is int and isinstance(value, bool)):
            return value
        raise ValueError(f"not of type {type_.__name__}")

    return read


def _same(value: Any) -> Json:
    return value


ID: Final = Kind(_read_id, _same)
TEXT: Final = Kind(_of(str), _same)
NUMBER: Final = Kind(_of(int), _same)
FLAG: Final = Kind(_of(bool), _same)
OBJECT: Final = Kind(_of(dict), _same)
ARRAY: Final = Kind(_of(list), _same)
MILLISECONDS: Final = Kind(_read_milliseconds, _write_milliseconds)
"""An aware datetime in UTC; in JSON a string of milliseconds since 1970."""
SPELLED_TIME: Final = Kind(_read_spelled_time, _write_spelled_time)
"""An aware datetime in UTC; in JSON as ``Mon Nov 29 21:18:15 +0000 2010``."""


@frozen
class _Place:
    kind: Kind
    path: Path
    also: Path


def at(kind: Kind, *path: str, also: Path = ()) -> dict[str, Any]:
    """Metadata for an attrs field: its value is of `kind` and lives at `path` in the JSON.

    Args:
        kind: how it is read and written.
        path: the keys from the outside in.
        also: a second place to read it from if the first is empty; what is found there stays in ``extra`` too.
    """
    return {"place": _Place(kind, path, also)}


# A tree of the same shape as the JSON: keys lead to subtrees, or to the field that takes the value found there.
@frozen
class _Leaf:
    name: str
    kind: Kind
    required: bool
    taken: bool


_Tree = dict[str, "_Tree | _Leaf"]


def _plant(tree: _Tree, path: Path, leaf: _Leaf) -> None:
    for key in path[:-1]:
        subtree = tree.setdefault(key, {})
        if isinstance(subtree, _Leaf):
            raise TypeError(f"{leaf.name} lives inside {subtree.name}")
        tree = subtree
    tree[path[-1]] = leaf


def _absorb(node: dict[str, Json], tree: _Tree, found: dict[str, Any]) -> dict[str, Json]:
    """Move what `tree` names from `node` into `found`; return what is left of `node`."""
    rest: dict[str, Json] = {}
    for key, value in node.items():
        branch = tree.get(key)
        if branch is None or value is None:
            rest[key] = value
        elif isinstance(branch, _Leaf):
            _take(branch, key, value, found, rest)
        elif is_object(value) and value:
            if left := _absorb(value, branch, found):
                rest[key] = left
        else:
            rest[key] = value
    return rest


def _take(leaf: _Leaf, key: str, value: Json, found: dict[str, Any], rest: dict[str, Json]) -> None:
    try:
        read = leaf.kind.read(value)
    except ValueError:
        if leaf.required:
            raise
        # One odd field that can be done without must not cost the whole answer: a message that was sent, say.
        rest[key] = value
        return
    if leaf.taken:
        found[leaf.name] = read
    else:
        found.setdefault(leaf.name, read)
        rest[key] = value


def _lay(target: dict[str, Json], path: Path, value: Json) -> None:
    for key in path[:-1]:
        inner = target.get(key)
        target[key] = target = dict(inner) if is_object(inner) else {}
    target[path[-1]] = value


def _find(node: Json, path: Path) -> Json:
    for key in path:
        node = node.get(key) if is_object(node) else None
    return node


def _places(cls: type[Any]) -> dict[str, _Place]:
    return {field.name: field.metadata["place"] for field in fields(cls) if "place" in field.metadata}


def _structure_hook(cls: type[Any]) -> Callable[[Json, Any], Any]:
    resolve_types(cls)
    tree: _Tree = {}
    doubled: list[_Place] = []
    defaults = {field.name: field.default for field in fields(cls)}
    for name, place in _places(cls).items():
        required = place.kind.vital or defaults[name] is NOTHING
        if place.also:
            doubled.append(place)
            _plant(tree, place.also, _Leaf(name, place.kind, required, taken=False))
        _plant(tree, place.path, _Leaf(name, place.kind, required, taken=True))

    def structure(body: Json, _: Any) -> Any:
        if not is_object(body):
            raise ValueError("not an object")
        found: dict[str, Any] = {}
        rest = _absorb(body, tree, found)
        for place in doubled:
            # Where both places are filled, both stay in what is left: else it could not be told which of them were.
            value = _find(body, place.path)
            if value is not None and _find(rest, place.also) is not None:
                _lay(rest, place.path, value)
        return cls(**found, extra=rest)

    return structure


def _unstructure_hook(cls: type[Any]) -> Callable[[Any], Json]:
    places = _places(cls)

    def unstructure(model: Any) -> Json:
        body = dict(model.extra)
        for name, place in places.items():
            value = getattr(model, name)
            if value is not None and not (place.also and _find(model.extra, place.also) is not None):
                _lay(body, place.path, place.kind.write(value))
        return body

    return unstructure


def _is_model(type_: Any) -> bool:
    return has(type_) and any("place" in field.metadata for field in fields(type_))


def found(node: Json, *path: str) -> Json:
    """What is at `path` in `node`; ``None`` if nothing is."""
    return _find(node, path)


converter: Final[cattrs.Converter] = cattrs.Converter(detailed_validation=False)
"""The one converter. ``structure`` raises ValueError or TypeError where the JSON is not what the model says."""


def listed(model: type[Any]) -> Kind:
    """The kind of a JSON array of objects, each of them a `model`."""

    def read(value: Json) -> tuple[Any, ...]:
        if not is_array(value):
            raise ValueError("not an array")
        return tuple(converter.structure(item, model) for item in value)

    return Kind(read, lambda items: [converter.unstructure(item) for item in items], vital=True)


def nested(model: type[Any]) -> Kind:
    """The kind of a JSON object that is a `model`."""
    return Kind(lambda value: converter.structure(value, model), converter.unstructure)


converter.register_structure_hook_factory(_is_model, _structure_hook)
converter.register_unstructure_hook_factory(_is_model, _unstructure_hook)
