"""The layouts in which SAM-Audio's weights are published, all read as the reference's.

Meta's names and PyTorch's axes; or those of mlx-audio (mlx_audio/sts/models/sam_audio/model.py and
codec/models/dacvae), which has MLX's axes and other names for the codec. What a layer is follows
from its name, never from the shape of a tensor.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading.weights import complain

from .safetensors_files import SafetensorsWeights
from .sources import Source
from .torch_file import TorchWeights

REFERENCE, MLX_AUDIO = "reference", "mlx-audio"
PREFIX = "audio_codec."  # of the codec's tensors
MARKS = {  # the first layer of the codec tells them apart; the DiT's names are the same in both
    f"{PREFIX}encoder.block.0.": (REFERENCE, ""),
    f"{PREFIX}encoder.conv_in.": (MLX_AUDIO, ""),
    "encoder.block.0.": (REFERENCE, PREFIX),  # a codec alone
    "encoder.conv_in.": (MLX_AUDIO, PREFIX),
}


class Weights(Protocol):
    """Tensors by the reference's names."""

    shapes: dict[str, tuple[int, ...]]

    @property
    def dtype(self) -> str: ...

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32, once."""

    def peek(self, name: str) -> np.ndarray:
        """The same, without downloading a file for it."""


@dataclass(frozen=True)
class Opened:
    """The weights of a source."""

    source: Source
    files: Sequence[str]
    layout: str
    weights: Weights


def opened(source: Source, stages: int, second: Opened | None = None) -> Opened:
    """Finds out the layout of a source's weights. Raises SAMAudioError.

    stages: of the codec's encoder. second: the same codec from elsewhere, which tells the order of
    axes where their sizes do not.
    """
    files = source.weights()
    if files[0].endswith(".pt"):
        weights: Weights = TorchFile(source, files[0])
    else:
        weights = SafetensorsWeights(source, *files)
        refuse_packed(source, weights)
    found = {}
    for name in weights.shapes:
        for mark, layout in MARKS.items():
            if name.startswith(mark):
                found[layout] = name
    if len(found) > 1:
        raise SAMAudioError(
            f"{source} mixes two layouts, as {' and '.join(sorted(found.values()))} show"
        )
    layout, prefix = next(iter(found), (REFERENCE, ""))  # without a codec, there is one layout
    if prefix:
        weights = Renamed(weights, lambda name: prefix + name)
    if layout == MLX_AUDIO:
        weights = MLXAudioWeights(source, weights, stages, second and second.weights)
    return Opened(source, files, layout, weights)


class TorchFile:
    """A source's .pt. Of the hub's, what it says of its tensors is read first."""

    def __init__(self, source: Source, file: str):
        self._source, self._file = source, file
        if source.remote is None or (source.folder / file).is_file():
            told = self._weights
        elif file in source.sizes:
            told = TorchWeights(Path(f"{source}/{file}"), remote=source.remote.open(file))
        else:
            raise SAMAudioError(f"{source} holds no {file}")
        self.shapes, self.dtype = told.shapes, told.dtype

    @cached_property
    def _weights(self) -> TorchWeights:
        return TorchWeights(self._source.file(self._file))

    def read(self, name: str) -> np.ndarray:
        if self._weights.shapes != self.shapes:
            raise SAMAudioError(f"{self._file} of {self._source} has changed while it was read")
        return self._weights.read(name)

    peek = read


def refuse_packed(source: Source, weights: SafetensorsWeights) -> None:
    """Weights of few bits: what they were made from is not in them."""
    for ending, kind in ((".scales", "quantised already"), ("._scale", "in 8 bits with scales")):
        packed = sorted(name for name in weights.shapes if name.endswith(ending))
        complain(f"{source} is {kind} and not converted again: it holds", packed)
    kinds = sorted(kind for kind in weights.kinds if kind.startswith("F8"))
    if kinds:
        raise SAMAudioError(f"{source} holds {kinds[0]}: 8-bit floats are not converted")


class Renamed:
    """Weights by other names, or some of them: a name that becomes None is left out."""

    def __init__(self, weights: Weights, rename: Callable[[str], str | None]):
        self._weights = weights
        self._names = {new: old for old in weights.shapes if (new := rename(old)) is not None}
        self.shapes = {new: weights.shapes[old] for new, old in self._names.items()}
        self.dtype = weights.dtype

    def read(self, name: str) -> np.ndarray:
        return self._weights.read(self._names[name])

    def peek(self, name: str) -> np.ndarray:
        return self._weights.peek(self._names[name])


class Peeked(Renamed):
    """Some weights of a file that is not downloaded for them."""

    def read(self, name: str) -> np.ndarray:
        return self.peek(name)


class Joined:
    """Weights from several places."""

    def __init__(self, *parts: Weights):
        self._places: dict[str, Weights] = {}
        for part in parts:
            complain("two sources hold", sorted(part.shapes.keys() & self._places.keys()))
            self._places |= dict.fromkeys(part.shapes, part)
        self.shapes = {name: part.shapes[name] for part in parts for name in part.shapes}
        self.dtype = parts[0].dtype

    def read(self, name: str) -> np.ndarray:
        return self._places[name].read(name)

    def peek(self, name: str) -> np.ndarray:
        return self._places[name].peek(name)


UNIT = {"act1": "block.0", "conv1": "block.1", "act2": "block.2", "conv2": "block.3"}
MARK = r"decoder\.wm_model\."
RENAMED: list[tuple[str, Callable[[re.Match, int], str]]] = [  # in the codec; stages of its encoder
    (r"encoder\.conv_in", lambda m, n: "encoder.block.0"),
    (r"encoder\.snake_out", lambda m, n: f"encoder.block.{n + 1}"),
    (r"encoder\.conv_out", lambda m, n: f"encoder.block.{n + 2}"),
    (
        r"encoder\.blocks\.(\d+)\.res(\d)\.(act1|conv1|act2|conv2)",
        lambda m, n: f"encoder.block.{int(m[1]) + 1}.block.{int(m[2]) - 1}.{UNIT[m[3]]}",
    ),
    (r"encoder\.blocks\.(\d+)\.snake", lambda m, n: f"encoder.block.{int(m[1]) + 1}.block.3"),
    (r"encoder\.blocks\.(\d+)\.conv", lambda m, n: f"encoder.block.{int(m[1]) + 1}.block.4"),
    (r"quantizer_(in|out)_proj", lambda m, n: f"quantizer.{m[1]}_proj"),
    (r"decoder\.conv_in", lambda m, n: "decoder.model.0"),
    (r"decoder\.snake_out", lambda m, n: "decoder.wm_model.encoder_block.pre.0"),
    (r"decoder\.conv_out", lambda m, n: "decoder.wm_model.encoder_block.pre.1"),
    (
        r"decoder\.blocks\.(\d+)\.block_(\d+)(?:\.(act1|conv1|act2|conv2))?",
        lambda m, n: f"decoder.model.{int(m[1]) + 1}.block.{m[2]}{unit(m[3])}",
    ),
    (
        MARK + r"(encoder_block|decoder_block)\.(pre|post)_(\d)",
        lambda m, n: f"decoder.wm_model.{m[1]}.{m[2]}.{m[3]}",
    ),
    (MARK + r"msg_processor\.msg_processor", lambda m, n: m[0]),
]
LSTM = re.compile(r"(.+\.lstm)\.layers\.(\d+)\.(Wx|Wh|bias)")
LSTM_NAMES = {"Wx": "weight_ih", "Wh": "weight_hh", "bias": "bias_ih"}
UPSAMPLING = re.compile(r".*decoder\.blocks\.\d+\.block_[13]\.weight(_[gv])?")
UPSAMPLED, CONVOLVED = (2, 0, 1), (0, 2, 1)  # from (o, k, i) to (i, o, k), and to (o, i, k)


def unit(part: str | None) -> str:
    return f".{UNIT[part]}" if part else ""


def reference_name(name: str, stages: int) -> str | None:
    """Of one of mlx-audio's tensors; None if there is none."""
    if not name.startswith(PREFIX):
        return name
    layer, _, key = name.removeprefix(PREFIX).rpartition(".")
    if match := LSTM.fullmatch(name.removeprefix(PREFIX)):
        layer, key = match[1], f"{LSTM_NAMES[match[3]]}_l{match[2]}"
        layer, key = layer.removesuffix(".lstm"), f"lstm.{key}"
    for pattern, rename in RENAMED:
        if match := re.fullmatch(pattern, layer):
            return f"{PREFIX}{rename(match, stages)}.{key}"
    return None


class MLXAudioWeights:
    """mlx-audio's tensors by the reference's names, in PyTorch's axes. Raises SAMAudioError.

    Where a layer has as many taps as channels, mlx-audio itself guessed the order of axes when it
    saved the file: such a tensor is compared with `second`, or refused.
    """

    def __init__(self, source: Source, weights: Weights, stages: int, second: Weights | None):
        self._source, self._weights, self._second = source, weights, second
        self.dtype = weights.dtype
        self._names, self.shapes, unknown = {}, {}, []
        for name, shape in weights.shapes.items():
            new = reference_name(name, stages)
            if new is None:
                unknown.append(name)
                continue
            self._names[new] = name
            self.shapes[new] = tuple(shape[axis] for axis in self._axes(name))
            if ".lstm.bias_ih_l" in new:  # the sum of two
                self.shapes[new.replace("bias_ih", "bias_hh")] = shape
        complain(f"{source} holds unknown", sorted(unknown))
        doubtful = sorted(filter(self._doubtful, self._names))
        if doubtful and second is None:
            complain(
                f"{source} does not tell the order of axes, which --codec-from decides, of",
                doubtful,
            )

    def _axes(self, name: str) -> tuple[int, ...]:
        dimensions = len(self._weights.shapes[name])
        if dimensions != 3:  # all others are as in PyTorch
            return tuple(range(dimensions))
        return UPSAMPLED if UPSAMPLING.fullmatch(name) else CONVOLVED

    def _doubtful(self, name: str) -> bool:
        shape = self.shapes[name]
        return len(shape) == 3 and shape[1] == shape[2] > 1 and name.startswith(PREFIX)

    def read(self, name: str) -> np.ndarray:
        return self._arranged(name, self._weights.read)

    def peek(self, name: str) -> np.ndarray:
        return self._arranged(name, self._weights.peek)

    def _arranged(self, name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        if name not in self._names:
            return np.zeros(self.shapes[name], np.float32)
        theirs = self._names[name]
        value = read(theirs)
        if untouched(name, value):
            raise SAMAudioError(f"{self._source} holds {theirs} as it was before any training")
        turned = value.transpose(self._axes(theirs))
        if not self._doubtful(name):
            return turned
        dtypes = self.dtype, self._second.dtype
        expected = self._second.peek(name)
        fitting = [each for each in (turned, value) if agree(each, expected, *dtypes)]
        if len(fitting) != 1:
            raise SAMAudioError(f"{self._source} holds another {name} than --codec-from")
        return fitting[0]


def untouched(name: str, value: np.ndarray) -> bool:
    """Is it what a layer begins with? Training leaves no such values, a loader that skips what it
    cannot place does."""
    key = name.rpartition(".")[2]
    if key in ("bias", "gate"):
        return not value.any()
    return (key == "alpha" or key == "weight" and value.ndim == 1) and bool((value == 1).all())


# half the distance of neighbours, relative to a number
ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-9}
TINY = 2.0**-25  # of float16's smallest


def agree(a: np.ndarray, b: np.ndarray, *dtypes: str) -> bool:
    """Are they the same numbers, rounded to two types?"""
    error = sum(ROUNDING[dtype] for dtype in dtypes)
    near = error * np.abs(a) + (2 * TINY if error else 0)
    return a.shape == b.shape and bool((np.abs(a - b) <= near).all())
