"""JSON files, strictly: regular, small, without surprises."""

import json
import reprlib
from pathlib import Path

from ..errors import SAMAudioError
from ..files import reason

MOST_BYTES = 4 * 2**20


def read_json(path: Path) -> dict:
    """The JSON object in a file of a model folder."""
    values = loaded(path)
    if not isinstance(values, dict):
        raise SAMAudioError(f"{path} holds no JSON object")
    return values


def loaded(path: Path) -> object:
    """What JSON a file of a model folder holds."""
    if not path.is_file():  # nor is a pipe, for which one would wait
        raise SAMAudioError(f"{path.parent} holds no {path.name}: it is not a model folder")
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise SAMAudioError(f"cannot read {path}: {reason(error)}") from None


def unique(pairs: list[tuple[str, object]]) -> dict:
    values = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{reprlib.repr(key)} stands there twice")
        values[key] = value
    return values


def no_number(name: str):
    raise ValueError(f"{name} is no number of JSON")
