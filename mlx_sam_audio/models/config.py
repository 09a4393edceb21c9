"""What the networks' configurations share: the ranges of their numbers, and how they are stored.

Each lies beside its network. Architecture values have no defaults; the converter writes them all.
Every number has a range, wide enough for any model one could think of, so that no file asks for
endless work.
"""

import dataclasses
import reprlib
import typing
from typing import Annotated, Literal

from ..errors import SAMAudioError
from .schema import Wrong, parse

# the least and the most of a number, or of the length of a tuple or text
Width = Annotated[int, 1, 2**16]
Layers = Annotated[int, 1, 2**9]
Heads = Annotated[int, 1, 2**10]
Vocabulary = Annotated[int, 2, 2**22]
Token = Annotated[int, 0, 2**22]
Tokens = Annotated[int, 2, 2**13]
Positions = Annotated[int, 2, 2**24]
SampleRate = Annotated[int, 100, 2**20]
Rates = Annotated[tuple[Annotated[int, 1, 2**10], ...], 1, 8]
Epsilon = Annotated[float, 1e-30, 1]
Theta = Annotated[float, 1, 1e12]
Word = Annotated[str, 1, 100]
MOST_SAMPLES = 2**16  # in a frame
Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES = typing.get_args(Dtype)


def heads_do_not_fit(dim: int, heads: int, parts: int = 1) -> Wrong:
    """parts: into how many a head's channels are cut, by rotary angles say."""
    pieces = f" in {parts} parts" if parts > 1 else ""
    return {f"a width of {dim} is not {heads} heads{pieces}": dim % (heads * parts)}


class Stored:
    """What a model's config.json holds, beside its `model_type` and `format`."""

    model_type: typing.ClassVar[str]
    format: typing.ClassVar[int]
    older: typing.ClassVar[tuple[int, ...]] = ()  # formats that are read, too

    @staticmethod
    def upgraded(values: dict, version: object) -> dict:
        """The values of an older format as those of this one."""
        return values

    def to_dict(self) -> dict:
        kind = {"model_type": self.model_type, "format": self.format}
        return {**kind, **dataclasses.asdict(self)}

    def checked(self, where: object) -> "Stored":
        """Itself, if all values are in their ranges; `where` they come from. SAMAudioError."""
        return self.from_dict(self.to_dict(), where)

    @classmethod
    def from_dict(cls, values: dict, where: object) -> "Stored":
        """Raises SAMAudioError that names an unknown, missing or mistyped key."""
        values = dict(values)
        kind, version = values.pop("model_type", None), values.pop("format", None)
        if not is_ours({"model_type": kind, "format": version}):
            raise SAMAudioError(
                f"{where} is not a converted model: convert the checkpoint first with "
                "`python -m convert --hf-path <folder or repo> --mlx-path <new folder>`"
            )
        if kind != cls.model_type:
            raise SAMAudioError(
                f"{where} belongs to {KINDS[kind]}, where {KINDS[cls.model_type]} is needed"
            )
        if version not in (cls.format, *cls.older):
            raise SAMAudioError(
                f"{where} has format {reprlib.repr(version)}, this version reads {cls.format}: "
                "convert it again"
            )
        return parse(cls, cls.upgraded(values, version), where)


KINDS = {
    "sam_audio": "a separation model",
    "pe_a_frame": "a span predictor",
    "sam_audio_judge": "a judge",
    "imagebind": "an ImageBind ranker",
    "clap": "a CLAP ranker",
    "aesthetics": "an aesthetics model",
}


def is_ours(values: dict) -> bool:
    """Do the values of a config.json belong to a converted model?"""
    kind = values.get("model_type")
    return isinstance(kind, str) and kind in KINDS and values.get("format") is not None
