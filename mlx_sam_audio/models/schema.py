"""Values of JSON as dataclasses, strictly.

A field's annotation says what its value may be: `Annotated[int, 1, 8]` is a whole number of 1 to 8,
`Annotated[tuple[int, ...], 1, 8]` a list of so many, `Literal` one of a few values, `X | None` may
be null. A boolean is no number; a whole number does for a float.
"""

import dataclasses
import math
import reprlib
import types
import typing

from ..errors import SAMAudioError

NAMES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "a list",
    dict: "an object", types.NoneType: "null",
}  # fmt: skip
SCALARS = (int, float, bool, str, types.NoneType)
Wrong = dict[str, object]  # problem -> whether the values have it


class Lenient:
    """Base of dataclasses whose file may hold other keys: the original ignores them, too."""


def parse(kind, value, where: object, key: str = ""):
    """A value of JSON as a `kind`: a dataclass, or what the annotation of a field says.

    where, key: the file, and the place in it. Raises SAMAudioError that names both.
    """
    low, high = -math.inf, math.inf
    if typing.get_origin(kind) is typing.Annotated:
        kind, low, high = typing.get_args(kind)
    origin, options = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else parse(options[0], value, where, key)
    if dataclasses.is_dataclass(origin) and isinstance(value, dict):
        return parse_fields(origin, value, where, key)
    if origin is dict and isinstance(value, dict):
        return {k: parse(options[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)) and low <= len(value) <= high:
        return tuple(parse(options[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is typing.Literal and (type(value), value) in [(type(o), o) for o in options]:
        return value
    if origin is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is origin in SCALARS and low <= size(value) <= high:
        return value
    wanted = expected(origin, options, low, high)
    raise SAMAudioError(f"{where}: {key} is {reprlib.repr(value)}, expected {wanted}")


def parse_fields(kind, values: dict, where: object, key: str):
    """The dataclass. Keys without a default must be there; unknown ones may not, unless the class
    is `Lenient`; its method `wrong`, if it has one, says which values do not go together."""
    place = f"{where}, {key}" if key else where
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    unknown = set() if issubclass(kind, Lenient) else set(values) - set(fields)
    lacking = {k for k, default in fields.items() if default is dataclasses.MISSING} - set(values)
    for problem, keys in (("has unknown keys:", unknown), ("lacks", lacking)):
        if keys:
            raise SAMAudioError(f"{place} {problem} {', '.join(map(str, sorted(keys)[:10]))}")
    hints = typing.get_type_hints(kind, include_extras=True)
    prefix = f"{key}." if key else ""
    given = {
        name: parse(hints[name], values[name], where, prefix + name)
        for name in fields
        if name in values
    }
    made = kind(**given)
    for problem, holds in (made.wrong() if hasattr(made, "wrong") else {}).items():
        if holds:
            raise SAMAudioError(f"{place}: {problem}")
    return made


def size(value: int | float | str | None) -> float:
    return len(value) if isinstance(value, str) else value or 0


def expected(kind, options: tuple, low: float, high: float) -> str:
    if kind is typing.Literal:
        return " or ".join(map(repr, options))
    name = NAMES[dict if dataclasses.is_dataclass(kind) else kind]
    if high == math.inf:
        return name
    return f"{name} {'from' if kind in (int, float) else 'of length'} {low} to {high}"
