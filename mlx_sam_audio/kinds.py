"""What arguments may be: annotations that are checked, so that a wrong kind is one sentence.

Such an annotation is Annotated[type, Kind(check, words)]: the type for type checkers, the check for
what types do not say, the words for the sentence and for help(). Ranges, and what depends on other
arguments, are checked where the values are used.
"""

import functools
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError, shown

RATES = range(1000, 768_001)  # Hz
Check = Callable[[object], bool]


class Kind(NamedTuple):
    """How it is checked, and what it must be in words, which is how help() prints it."""

    check: Check
    words: str

    def __repr__(self) -> str:
        return self.words


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A real number that a float can hold."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except (OverflowError, TypeError, ValueError):
        return False
    return True


def is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def native(value: object) -> object:
    """Python's number for any library's, which JSON does not know and whose sums may overflow."""
    if type(value) in (bool, int, float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def is_text(value: object) -> bool:
    """A string that can be encoded: what a terminal hands over may be no UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def is_array(value: object) -> bool:
    """Numbers in an array, or what becomes one."""
    if isinstance(value, mx.array):
        return True
    try:
        return np.asarray(value).dtype.kind in "fiub"
    except Exception:  # noqa: BLE001 - whatever it is, NumPy may take it for a list
        return False


def is_samples(value: object) -> bool:
    return is_array(value) and not (isinstance(value, mx.array) and value.dtype == mx.bfloat16)


def as_array(value: object) -> mx.array:
    """What `is_array` says of: MLX alone does not take all of it."""
    return value if isinstance(value, mx.array) else mx.array(np.asarray(value))


def is_rate(value: object) -> bool:
    return is_whole(value) and value in RATES


def is_list(kind: Check) -> Check:
    """Several values, all of one kind."""
    single = (str, bytes, Mapping, Iterator)
    return lambda value: (
        isinstance(value, Iterable)
        and not isinstance(value, single)
        and getattr(value, "ndim", 1) == 1
        and all(map(kind, value))
    )


def anything(value: object) -> bool:
    return True


def either(*kinds: Check) -> Check:
    return lambda value: any(kind(value) for kind in kinds)


def one_of(*classes: type) -> Check:
    return lambda value: isinstance(value, classes)


Flag = Annotated[bool, Kind(is_flag, "True or False")]
Whole = Annotated[int, Kind(is_whole, "a whole number")]
SEED = "a whole number from 0 to 2**63 - 1"
Seed = Annotated[int, Kind(is_whole, SEED)]
Bytes = Annotated[int, Kind(is_whole, "a number of bytes")]
Number = Annotated[float, Kind(is_number, "a number")]
Numbers = Annotated[Sequence[float], Kind(is_list(is_number), "a list of numbers")]
Seconds = Annotated[float, Kind(is_number, "seconds")]
Decibels = Annotated[float, Kind(is_finite, "decibels")]
Hertz = Annotated[int, Kind(is_rate, f"{RATES[0]} to {RATES[-1]} Hz")]
Word = Annotated[str, Kind(is_text, "a word")]
Text = Annotated[str, Kind(is_text, "a string of Unicode characters")]
Texts = Annotated[
    str | Sequence[str],
    Kind(either(is_text, is_list(is_text)), "strings of Unicode characters"),
]
FilePath = Annotated[str | os.PathLike[str], Kind(is_path, "a path")]
Name = Annotated[str | os.PathLike[str], Kind(is_path, "a path, or a model's name")]
Array = Annotated[mx.array | np.ndarray | Sequence[Any], Kind(is_array, "an array of numbers")]
Samples = Annotated[
    mx.array | np.ndarray | Sequence[Any], Kind(is_samples, "an array of samples that NumPy knows")
]
Latents = Annotated[
    mx.array | np.ndarray | Sequence[Any], Kind(is_array, "an array of a codec's latents")
]
Lengths = Annotated[Sequence[int], Kind(is_list(is_whole), "lengths in samples")]


def kind_of(annotation: object) -> Kind | None:
    """The kind that an annotation, or a union of such ones and None, holds."""
    if typing.get_origin(annotation) is Annotated:
        return next(x for x in annotation.__metadata__ if isinstance(x, Kind))
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return None
    parts = typing.get_args(annotation)
    found = [kind_of(part) for part in parts if part is not types.NoneType]
    if not all(found):
        return None
    checks, words = zip(*found, strict=True)
    if types.NoneType not in parts:
        return Kind(either(*checks), " or ".join(words))
    return Kind(either(one_of(types.NoneType), *checks), f"{' or '.join(words)}, or None")


@functools.cache
def kinds_of(owner: Callable) -> dict[str, Kind]:
    """The kinds of a function's arguments, or a dataclass's fields, by name."""
    hints = typing.get_type_hints(owner, include_extras=True)
    found = {name: kind_of(hint) for name, hint in hints.items()}
    return {name: kind for name, kind in found.items() if kind}


def check(arguments: Mapping[str, object], owner: Callable) -> None:
    """Raises SAMAudioError that names the first argument of the wrong kind."""
    for name, kind in kinds_of(owner).items():
        if name in arguments and not kind.check(arguments[name]):
            raise SAMAudioError(f"{name} must be {kind.words}, not {shown(arguments[name])}")
