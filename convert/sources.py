"""Where weights come from: a local folder or a hub repo, read lazily and checked."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.load import download

REOPEN_AFTER = 128 * 2**20
# NumPy's numbers, which a training saves beside its weights; NumPy 1 and 2 name them differently
scalar = np.float64().__reduce__()[0]
NUMBERS = [
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), type(np.dtype("i8"))),
]


@dataclass(frozen=True)
class Source:
    folder: Path
    repo: str | None  # None for a local folder
    revision: str | None  # the commit, for a repo

    @classmethod
    def find(cls, name: str, patterns: list[str], revision: str | None = None) -> "Source":
        path = Path(name).expanduser()
        if path.is_dir():
            if revision is not None:
                raise SAMAudioError(f"{path} is a local folder: --revision is for hub repos")
            return cls(path, None, None)
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise SAMAudioError(f"there is no folder {name}")
        folder = download(name, patterns, revision)
        return cls(folder, name, folder.name)

    def file(self, name: str) -> Path:
        """A file of the folder; one of a repo is downloaded when it is asked for."""
        path = self.folder / name
        if self.repo and not path.is_file():
            download(self.repo, [name], self.revision)
        if not path.is_file():
            raise SAMAudioError(f"{self.repo or self.folder} holds no {name}")
        return path

    def describe(self, *files: Path) -> dict:
        return {
            "repo": self.repo or self.folder.resolve().name,
            "revision": self.revision,
            "sha256": {file.name: sha256(file) for file in files},
        }


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class TorchWeights:
    """A `torch.save`d state dict, memory-mapped. Pages that were read are given back now and then
    by mapping the file anew, so that memory does not grow with the checkpoint."""

    def __init__(self, path: Path, key: str | None = None):
        """key: under which a training's checkpoint holds the state dict."""
        self._path, self._key = path, key
        self._open()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def _open(self) -> None:
        try:
            import torch
        except ImportError:
            raise SAMAudioError(
                "converting needs PyTorch: `pip install 'mlx-sam-audio[convert]'`"
            ) from None
        self._tensors, self._read = {}, 0
        try:
            with torch.serialization.safe_globals(NUMBERS):
                tensors = torch.load(self._path, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError as error:
            raise SAMAudioError(
                f"{self._path} is not a plain set of weights (it wants to run code, or is "
                f"damaged) and was not opened: {first_sentence(error)}"
            ) from None
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise SAMAudioError(
                f"{self._path} is damaged or incomplete: download it again "
                f"({first_sentence(error)})"
            ) from None
        if self._key:
            tensors = tensors.get(self._key) if isinstance(tensors, dict) else None
        if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
            raise SAMAudioError(f"{self._path} holds no flat state dict")
        self._tensors = tensors

    def read(self, name: str) -> np.ndarray:
        if self._read > REOPEN_AFTER:
            self._open()
        value = self._tensors[name].float().numpy().copy()
        self._read += value.nbytes
        return value


class SafetensorsWeights:
    def __init__(self, path: Path):
        from safetensors import SafetensorError, safe_open

        try:
            self._file = safe_open(path, framework="numpy")
            names = self._file.keys()
        except (SafetensorError, OSError) as error:
            raise SAMAudioError(f"{path} is damaged or incomplete: {error}") from None
        self.shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in names}

    def read(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name).astype(np.float32)


def first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0][:200] if lines else type(error).__name__
