"""Where weights come from: a local folder or a hub repo, read lazily and checked."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.files import sha256
from mlx_sam_audio.loading.hub import download, is_repo
from mlx_sam_audio.loading.store import expanded, nearest
from mlx_sam_audio.loading.weights import header


@dataclass(frozen=True)
class Source:
    folder: Path
    repo: str | None  # None for a local folder
    revision: str | None  # the commit, for a repo

    @classmethod
    def find(
        cls,
        name: str,
        patterns: list[str],
        revision: str | None = None,
        known: Collection[str] = (),  # repos of one word, and names that might be meant
    ) -> "Source":
        path = expanded(name)
        if path.is_dir():
            if revision is not None:
                raise SAMAudioError(f"{path} is a local folder: --revision is for hub repos")
            return cls(path, None, None)
        if not is_repo(name) and name not in known:
            raise SAMAudioError(f"there is no folder and no repo {name}{nearest(name, known)}")
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


class SafetensorsWeights:
    """A .safetensors file. Raises SAMAudioError."""

    def __init__(self, path: Path):
        self._path, self._header = path, header(path)
        try:
            self._tensors = mx.load(str(path))  # lazily
        except (RuntimeError, ValueError) as error:
            raise SAMAudioError(f"cannot read {path}: {error}") from None
        self.shapes = {name: shape for name, (_, shape) in self._header.items()}

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32. It can be read once: nobody wants to keep it."""
        kind, _ = self._header[name]
        if kind not in ("F32", "F16", "BF16"):
            raise SAMAudioError(f"{self._path} holds {name} in {kind}: weights are floating-point")
        return np.array(self._tensors.pop(name).astype(mx.float32))
