"""What an interrupted long run goes on from."""

import hashlib
import json
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError
from .files import whole


class Checkpoint:
    """The state after a solver step, in a file beside the output, replaced atomically."""

    def __init__(self, path: str | Path, identity: dict[str, str], resume: bool):
        self.path, self._identity, self._resume = Path(path), identity, resume

    def load(self, noise: np.ndarray) -> tuple[int, np.ndarray, list[np.ndarray]]:
        """Evaluations done, the state and the slopes kept; the beginning if nothing was saved."""
        if not self._resume or not self.path.exists():
            return 0, noise, []
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                identity = json.loads(str(saved["identity"]))
                done, x, slopes = int(saved["done"]), saved["x"], list(saved["slopes"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise SAMAudioError(f"{self.path} is damaged: remove it") from None
        changed = [name for name, value in self._identity.items() if identity.get(name) != value]
        if changed:
            raise SAMAudioError(
                f"cannot resume: {' and '.join(changed)} differ from the interrupted run in "
                f"{self.path}; repeat them, or start over without --resume"
            )
        return done, x, slopes

    def save(self, done: int, x: np.ndarray, slopes: list[np.ndarray]) -> None:
        with whole(self.path) as (part,), open(part, "wb") as file:
            np.savez(file, identity=json.dumps(self._identity), done=done, x=x, slopes=slopes)


def digest(*values) -> str:
    """One fingerprint of arrays and of anything that prints."""
    sha = hashlib.sha256()
    for value in values:
        arrays = isinstance(value, (np.ndarray, mx.array))
        sha.update(np.ascontiguousarray(value) if arrays else repr(value).encode())
        sha.update(b"\0")
    return sha.hexdigest()
