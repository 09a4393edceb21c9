"""The tensors in .safetensors files, whose headers are read first.

Of a file on the hub, the header alone is read at first, so that a checkpoint that cannot be
converted is not downloaded to be refused; the rest comes when a tensor is read.
"""

import json
import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.strict_json import unique
from mlx_sam_audio.loading.weights import complain, header

from .sources import Source

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
        "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
        "F8_E8M0": 8, "F4": 4}  # fmt: skip
MOST_HEADER = 32 * 2**20  # bytes


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    file: str
    kind: str
    shape: tuple[int, ...]
    start: int  # bytes of a remote file
    size: int


class SafetensorsWeights:
    """The tensors of one or several files of a source. Raises SAMAudioError."""

    def __init__(self, source: Source, *files: str):
        self.source, self.files, self._tensors = source, files, {}
        self._places: dict[str, Place] = {}
        for file in files:
            found = self._local(file) if self._here(file) else self._remote(file)
            complain(f"{source} holds twice", sorted(found.keys() & self._places.keys()))
            self._places |= found
        self.shapes = {name: place.shape for name, place in self._places.items()}

    @property
    def kinds(self) -> set[str]:
        """Types of the tensors, as the format names them."""
        return {place.kind for place in self._places.values()}

    @property
    def dtype(self) -> str:
        """The type that holds all tensors exactly."""
        floats = self.kinds & set(FLOATS)
        return FLOATS[floats.pop()] if len(floats) == 1 else "float32"

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32. It can be read once: nobody wants to keep it."""
        place = self._place(name)
        if place.file not in self._tensors:
            path = self.source.file(place.file)
            found = {key: (kind, shape) for key, (kind, shape) in header(path).items()}
            if any(
                (p.kind, p.shape) != found.get(key)
                for key, p in self._places.items()
                if p.file == place.file
            ):
                raise SAMAudioError(f"{path} has changed while it was read")
            try:
                self._tensors[place.file] = mx.load(str(path))  # lazily
            except (RuntimeError, ValueError) as error:
                raise SAMAudioError(f"cannot read {path}: {error}") from None
        return np.array(self._tensors[place.file].pop(name).astype(mx.float32))

    def peek(self, name: str) -> np.ndarray:
        """The same of a file that need not be downloaded for it, as often as one likes."""
        place = self._place(name)
        if self._here(place.file):
            tensors = mx.load(str(self.source.file(place.file)))
            return np.array(tensors[name].astype(mx.float32))
        data = self.source.remote.read(place.file, place.start, place.size)
        if place.kind == "BF16":  # the upper half of a float32
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[place.kind])
        return values.astype(np.float32).reshape(place.shape)

    def _place(self, name: str) -> Place:
        place = self._places[name]
        if place.kind not in FLOATS:
            raise SAMAudioError(
                f"{self.source} holds {name} in {place.kind}: weights are floating-point"
            )
        return place

    def _here(self, file: str) -> bool:
        return self.source.remote is None or (self.source.folder / file).is_file()

    def _local(self, file: str) -> dict[str, Place]:
        found = header(self.source.file(file))
        return {name: Place(file, kind, shape, 0, 0) for name, (kind, shape) in found.items()}

    def _remote(self, file: str) -> dict[str, Place]:
        """What the header says, if all that it says fits the file's size."""
        remote = self.source.remote
        if file not in remote.files:
            raise SAMAudioError(f"{self.source} holds no {file}")
        total = remote.files[file].size
        length = int.from_bytes(remote.read(file, 0, min(8, total)), "little")
        damaged = SAMAudioError(f"{file} of {self.source} is damaged or incomplete")
        if not 2 <= length <= min(MOST_HEADER, total - 8):
            raise damaged
        try:
            values = json.loads(remote.read(file, 8, length), object_pairs_hook=unique)
            values.pop("__metadata__", None)
            places, end = {}, 0
            for name, told in sorted(values.items(), key=lambda item: item[1]["data_offsets"]):
                start, stop = told["data_offsets"]
                shape = tuple(map(int, told["shape"]))
                size = BITS[told["dtype"]] * math.prod(shape) // 8
                if start != end or stop - start != size or min(shape, default=0) < 0:
                    raise damaged
                places[name] = Place(file, told["dtype"], shape, 8 + length + start, size)
                end = stop
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise damaged from None
        if 8 + length + end != total:
            raise damaged
        return places
