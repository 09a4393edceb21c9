"""Reads the tensors in a file that `torch.save` wrote, without PyTorch and without trusting it.

Such a file is a zip whose members are not compressed: data.pkl, a pickle that says which tensors
there are, and data/0, data/1, ... with their numbers. Of the pickle's instructions only those are
followed that build plain values; calls build our own descriptions of tensors, whatever they name.
"""

import math
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mlx_sam_audio.errors import SAMAudioError

PICKLE_BYTES = 64 * 2**20
TYPES = {  # a storage's -> NumPy's
    "Float": "<f4", "Half": "<f2", "Double": "<f8", "BFloat16": "<u2", "Long": "<i8", "Int": "<i4",
    "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
FLOATS = {"Float": "float32", "Half": "float16", "Double": "float32", "BFloat16": "bfloat16"}
# what may be named beside that: in what a training saves with its weights, or by other tensors
OTHERS = re.compile(
    r"torch (\w+Storage|Tensor|Size|device|[a-z]+\d\w*|bool|per_\w+)|torch\._utils _rebuild_\w+"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.storage \w+Storage|torch\.serialization _get_\w+"
    r"|torch\.nn\.parameter \w+|collections (OrderedDict|Counter)|_codecs encode"
    r"|numpy dtype|numpy\.dtypes \w+|numpy\._?core\.multiarray scalar"
)
PLAIN = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class Name(str):
    """Of a class or function."""


class Storage(NamedTuple):
    kind: str
    member: str
    count: int


@dataclass(frozen=True)
class Tensor:
    storage: Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.storage.count, self.start, *self.shape, *self.strides)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a shape in it is not made of whole numbers")
        if not len(self.shape) == len(self.strides) <= 8:
            raise ValueError("a shape in it does not fit its strides")

    @property
    def span(self) -> int:
        """How many numbers lie from its first to its last."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


class NotPlain(ValueError):
    pass


class TorchWeights:
    """A state dict that `torch.save` wrote. Raises SAMAudioError."""

    def __init__(self, path: Path, key: str | None = None, remote: BinaryIO | None = None):
        """key: under which a training's checkpoint holds the state dict. remote: the file, where
        only what it says of its tensors is to be read."""
        self._path = path
        try:
            self._file = zipfile.ZipFile(remote or path)
            self._sizes = sizes(self._file, whole=remote is None)
            (pickle,) = (name for name in self._sizes if re.fullmatch(r"[^/]+/data\.pkl", name))
            self._folder = pickle.removesuffix("data.pkl")
            if self._sizes[pickle] > PICKLE_BYTES:
                raise ValueError(f"{pickle} is too large")
            order = f"{self._folder}byteorder"
            if order in self._sizes and self._file.read(order) != b"little":
                raise ValueError("its numbers are not little-endian")
            tensors = unpickled(self._file.read(pickle))
        except NotPlain as error:
            raise SAMAudioError(
                f"{path} is not a plain set of weights ({error}) and was not opened"
            ) from None
        except SAMAudioError:  # the hub's
            raise
        except Exception as error:  # noqa: BLE001 -- a damaged zip or pickle may raise anything
            raise SAMAudioError(
                f"{path} is damaged or incomplete: download it again ({first_sentence(error)})"
            ) from None
        if key is not None:
            tensors = tensors.get(key) if isinstance(tensors, dict) else None
        if not isinstance(tensors, dict):
            raise SAMAudioError(f"{path} holds no flat state dict")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise SAMAudioError(f"{path} holds no flat state dict: {name} is no plain tensor")
        self._tensors = tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}

    @property
    def dtype(self) -> str:
        """The type that holds all tensors exactly."""
        kinds = {tensor.storage.kind for tensor in self._tensors.values()} & set(FLOATS)
        return FLOATS[kinds.pop()] if len(kinds) == 1 else "float32"

    def peek(self, name: str) -> np.ndarray:
        return self.read(name)

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32."""
        tensor = self._tensors[name]
        kind, member, count = tensor.storage
        if kind not in FLOATS:
            raise SAMAudioError(f"{self._path} holds {name} in {kind}: weights are floating-point")
        dtype = np.dtype(TYPES[kind])
        member = f"{self._folder}data/{member}"
        whole = self._sizes.get(member) == count * dtype.itemsize
        # neither repeated numbers nor those of another tensor
        most = max(math.prod(tensor.shape), tensor.start + tensor.span)
        if not whole or 0 in tensor.shape or most > count:
            raise SAMAudioError(f"{self._path} does not hold the numbers of {name}, or not all")
        with open(self._path, "rb") as file:
            file.seek(self.place(member) + tensor.start * dtype.itemsize)
            values = np.fromfile(file, dtype, tensor.span)
        if len(values) < tensor.span:
            raise SAMAudioError(f"{self._path} has changed while it was read")
        if kind == "BFloat16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        strides = [
            step * values.itemsize if n > 1 else 0
            for n, step in zip(tensor.shape, tensor.strides, strict=True)
        ]
        values = as_strided(values, tensor.shape, strides)
        with np.errstate(over="ignore"):  # infinite values are refused later, by name
            return values.astype(np.float32, copy=False)

    def place(self, member: str) -> int:
        """Where the data of a member begins: after its own header, which the directory's is not."""
        header = self._file.getinfo(member).header_offset
        with open(self._path, "rb") as file:
            file.seek(header + 26)
            name, more = struct.unpack("<HH", file.read(4))
        return header + 30 + name + more


def sizes(file: zipfile.ZipFile, whole: bool) -> dict[str, int]:
    """Of the members. whole: all of which are read, and are as they were written."""
    found = {info.filename: info.file_size for info in file.infolist()}
    if len(found) < len(file.infolist()):
        raise ValueError("two of its parts have one name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
        raise ValueError("its parts are compressed")
    if whole and (damaged := file.testzip()):
        raise ValueError(f"the checksum of {damaged} differs")
    return found


def unpickled(data: bytes) -> object:
    """The value of a pickle. Raises NotPlain, and other exceptions if it is damaged."""
    stack, marks, memo = [], [], {}

    def popped(count: int | None = None) -> tuple:
        """The last so many values, or those since the last mark."""
        first = marks.pop() if count is None else len(stack) - count
        values = tuple(stack[first:])
        del stack[first:]
        return values

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in PLAIN:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(popped(int(name[5:]) if name[5:] else None))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = popped(1 if name == "APPEND" else None)
            stack[-1].extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = popped(2 if name == "SETITEM" else None)
            if not all(isinstance(key, (str, int)) for key in values[::2]):
                raise NotPlain("a key of it is neither a text nor a number")
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            if not OTHERS.fullmatch(argument):
                raise NotPlain(f"it wants to run code: {argument[:100]}")
            stack.append(Name(argument))
        elif name == "REDUCE":
            stack.append(called(*popped(2)))
        elif name == "BUILD":
            stack.pop()  # attributes: none of them matters
        elif name == "BINPERSID":
            stack.append(storage(*stack.pop()))
        elif name not in ("PROTO", "STOP"):
            raise NotPlain(f"its pickle uses {name}")
    (value,) = stack
    return value


def called(function: object, arguments: tuple) -> object:
    """What stands for the result of a call: our own descriptions, or None."""
    if function == "collections OrderedDict":
        return {}
    if function == "torch._utils _rebuild_tensor_v2":
        return Tensor(*arguments[:4])
    if function == "torch._utils _rebuild_parameter":
        return arguments[0]
    if not isinstance(function, Name):
        raise NotPlain("it wants to run code")
    return None


def storage(tag: object, kind: object, member: str, place: object, count: int) -> Storage:
    match = re.fullmatch(r"torch (\w+)Storage", kind) if isinstance(kind, Name) else None
    if tag != "storage" or not match:
        raise NotPlain("its tensors lie elsewhere")
    return Storage(match[1], member, count)


def first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0][:200] if lines else type(error).__name__
