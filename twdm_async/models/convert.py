"""Conversion of JSON to models and back, without loss.

A model is flat; the API's JSON is nested. Each field of a model says with :func:`at` where its value is in the JSON.
Structuring takes those values out and keeps **the rest, in its own shape**, in the model's ``extra``. Unstructuring
puts the values back into ``extra``. So fields that the API adds later, and fields that are not modelled, are available
there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import cattrs
from attrs import NOTHING, fields, fields_dict, frozen, has, resolve_types

from twdm_async._json import Json, is_array, is_object
from twdm_async.models.checks import is_id

T = TypeVar("T")
Path = tuple[str, ...]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@frozen
class Kind:
    """How one sort of value is read from JSON and written to JSON.

    Args:
        read: converts JSON to the value; raises ValueError if the JSON is not of this sort, or null.
        write: converts the value to JSON.
        vital: whether a value that cannot be read makes the whole object unreadable, even if the field is optional.
        plain: an expression over ``value``; if it is true, ``value`` is used as it is, without a call of `read`.
    """

    read: Callable[[Json], Any]
    write: Callable[[Any], Json]
    vital: bool = False
    plain: str = "False"


def _read_id(value: Json) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and is_id(value):
        return value
    raise ValueError("not an id")


def _read_milliseconds(value: Json) -> datetime:
    if type(value) is str and len(value) == 13 and value.isascii() and value.isdigit():
        return datetime.fromtimestamp(int(value) / 1000, UTC)  # until the year 2286, a float is exact enough
    digits = _read_id(value)
    if len(digits) > 15:  # the year 33658; datetime itself ends in 9999
        raise ValueError("not a time in milliseconds")
    try:
        return _EPOCH + timedelta(milliseconds=int(digits))
    except OverflowError as error:
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


ID: Final = Kind(
    _read_id, _same, plain="type(value) is str and len(value) < 20 and value.isascii() and value.isdigit()"
)
TEXT: Final = Kind(_of(str), _same, plain="type(value) is str")
NUMBER: Final = Kind(_of(int), _same)
FLAG: Final = Kind(_of(bool), _same)
OBJECT: Final = Kind(_of(dict), _same, plain="type(value) is dict")
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
    """Return the metadata for an attrs field whose value is of `kind` and is at `path` in the JSON.

    Args:
        kind: how the value is read and written.
        path: the keys from the outside in.
        also: a second path to read the value from if there is none at the first; the value also stays in ``extra``.
    """
    return {"place": _Place(kind, path, also)}


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
    """Generate the function that structures `cls`, field by field, so that it looks nothing up when it runs."""
    resolve_types(cls)
    tree: dict[str, Any] = {}  # of the same shape as the JSON: keys lead to subtrees, or to a field and its place
    names: dict[str, Any] = {"cls": cls, "find": _find, "nothing": NOTHING, "new": cls.__new__}
    lines = ["def structure(body, _):", " if not isinstance(body, dict): raise ValueError('not an object')"]
    missing: list[str] = []
    for name, place in _places(cls).items():
        default = fields_dict(cls)[name].default
        must = place.kind.vital or default is NOTHING
        if default is NOTHING:
            missing.append(f" if {name}_ is nothing: raise TypeError('{name} is missing')")
        names |= {f"{name}_default": default, f"read_{name}": place.kind.read}
        lines.append(f" {name}_ = {name}_default")
        subtree = tree
        for key in place.path[:-1]:
            subtree = subtree.setdefault(key, {})
        subtree[place.path[-1]] = name, place, must
        if place.also:
            find = f"body.get({place.also[0]!r})" if len(place.also) == 1 else f"find(body, {place.also!r})"
            lines += [f" also_{name} = {find}", f" if also_{name} is not None:"]
            lines += [
                f"  try: {name}_ = read_{name}(also_{name})",
                f"  except ValueError: {'raise' if must else 'pass'}",
            ]
    _write_branch(tree, "body", 1, lines)
    lines += [*missing, " model = new(cls)"]
    for one in fields(cls):  # as attrs' own __init__ does, but without looking each slot up
        names[f"set_{one.name}"] = getattr(cls, one.name).__set__
        lines.append(f" set_{one.name}(model, {f'{one.name}_' if one.name in _places(cls) else 'body'})")
    source = compile("\n".join([*lines, " return model"]), f"<{cls.__module__}.{cls.__name__}>", "exec")
    exec(source, names)  # noqa: S102 - all of the source is generated above
    structure: Callable[[Json, Any], Any] = names["structure"]
    return structure


def _write_branch(tree: dict[str, Any], node: str, depth: int, lines: list[str]) -> None:
    """Generate the lines that make `node` a copy of that object, and take the values in `tree` out of it. What cannot
    be read, and nulls, are put back.
    """
    indent = " " * depth
    lines.append(f"{indent}{node} = {{**{node}}}")
    for key, branch in tree.items():
        put_back = f"{node}[{key!r}] = value"
        lines += [f"{indent}value = {node}.pop({key!r}, nothing)", f"{indent}if value is not nothing:"]
        if is_object(branch):
            inner = f"node{len(lines)}"
            lines += [f"{indent} if isinstance(value, dict) and value:", f"{indent}  {inner} = value"]
            _write_branch(branch, inner, depth + 2, lines)
            lines += [f"{indent}  if {inner}: {node}[{key!r}] = {inner}", f"{indent} else: {put_back}"]
        else:
            name, place, must = branch
            lines += [f"{indent} try: {name}_ = value if {place.kind.plain} else read_{name}(value)"]
            # One unreadable optional field must not make the whole answer unreadable: the message may have been sent.
            lines.append(f"{indent} except ValueError:")
            lines += [f"{indent}  if value is not None: raise"] if must else []
            lines.append(f"{indent}  {put_back}")
            if place.also:  # if both places have a value, both keep it: unstructuring must know which of them had one
                lines += [f"{indent} else:", f"{indent}  if also_{name} is not None: {put_back}"]


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
    """Return what is at `path` in `node`; ``None`` if nothing is."""
    return _find(node, path)


def structure(body: Json, model: type[T]) -> T:
    """Structure `body` as a `model`. The converter's function for the model is looked up only once.

    Raises:
        ValueError, TypeError: `body` is not an object, or a required field is absent or of another type.
    """
    hook = _known.get(model)
    if hook is None:
        hook = _known[model] = converter.get_structure_hook(model)
    structured: T = hook(body, model)
    return structured


_known: Final[dict[Any, Callable[[Json, Any], Any]]] = {}

converter: Final[cattrs.Converter] = cattrs.Converter(detailed_validation=False)
"""The converter of all models. Its ``structure`` raises ValueError or TypeError if the JSON does not fit the model."""


def listed(model: type[Any]) -> Kind:
    """Return the kind of a JSON array of objects, each of them a `model`."""

    def read(value: Json) -> tuple[Any, ...]:
        if not is_array(value):
            raise ValueError("not an array")
        return tuple([structure(item, model) for item in value])

    return Kind(read, lambda items: [converter.unstructure(item) for item in items], vital=True)


def nested(model: type[Any]) -> Kind:
    """Return the kind of a JSON object that is a `model`."""
    return Kind(lambda value: structure(value, model), converter.unstructure)


converter.register_structure_hook_factory(_is_model, _structure_hook)
converter.register_unstructure_hook_factory(_is_model, _unstructure_hook)
