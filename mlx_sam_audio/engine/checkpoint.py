"""What an interrupted long run goes on from."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import SAMAudioError, note
from ..files import existing, sha256, whole
from ..media.video import MaskedVideo, is_file
from ..settings import digest
from .item import Item
from .mixture import Mixture
from .networks import Networks


class Checkpoint:
    """The state after a solver step, in a file beside the output, replaced atomically."""

    def __init__(self, path: str | Path, identity: dict[str, str], resume: bool):
        """identity: fingerprints, by name, of all that decides the result."""
        self.path, self._identity, self._resume = Path(path), identity, resume
        self._saves = True

    def load(self, noise: np.ndarray) -> tuple[int, np.ndarray, list[np.ndarray]]:
        """Evaluations done, the state and the slopes kept; the beginning if nothing was saved."""
        if is_foreign(self.path):
            raise SAMAudioError(f"{self.path} is no state of a run: give resume= another file")
        if not self._resume or not os.path.lexists(self.path):
            return 0, noise, []
        try:
            with np.load(existing(self.path), allow_pickle=False) as saved:
                identity, done = json.loads(str(saved["identity"])), int(saved["done"])
                x, slopes, seal = saved["x"], list(saved["slopes"]), str(saved["sha256"])
        except Exception:  # noqa: BLE001 - zipfile, zlib and numpy raise all kinds for damaged files
            seal = None
        if seal is None or seal != digest(identity, done, x, *slopes):
            raise SAMAudioError(f"{self.path} is damaged: remove it, or start without --resume")
        changed = [name for name, value in self._identity.items() if identity.get(name) != value]
        if changed:
            raise SAMAudioError(
                f"cannot resume: the interrupted run in {self.path} had another "
                f"{' and another '.join(changed)}; repeat it, or start over without --resume"
            )
        return done, x, slopes

    def save(self, done: int, x: np.ndarray, slopes: list[np.ndarray]) -> None:
        """Nothing is lost if that is impossible, say for want of room, but the chance to resume."""
        if not self._saves:
            return
        seal = digest(self._identity, done, x, *slopes)
        values = dict(identity=json.dumps(self._identity), done=done, x=x, slopes=slopes)
        try:
            with whole(self.path) as (part,), open(part, "wb") as file:
                np.savez(file, **values, sha256=seal)
        except SAMAudioError as error:
            self._saves = False
            note(f"this run cannot be resumed if it is interrupted: {error}")


def is_foreign(path: Path) -> bool:
    """Is it somebody's file, which is not to be overwritten? Names that `beside` makes are ours."""
    ours = path.name.startswith(".") and ".resume" in path.suffixes
    if ours or not path.is_file() or not path.stat().st_size:
        return False
    with open(existing(path), "rb") as file:
        start = file.read(42)
    return start[:2] != b"PK" or start[30:] != b"identity.npy"  # the first array of `save`


def beside(output: Path) -> Path:
    """Where the state of the run that writes `output` lies."""
    name = f".{output.name}.resume"
    if len(os.fsencode(name)) > 255:
        name = f".{digest(output.name)[:16]}.resume"
    return output.with_name(name)


def identity(
    networks: Networks, mixtures: Sequence[Mixture], items: Sequence[Item]
) -> dict[str, str]:
    """Fingerprints of all that decides a run, but its settings; files are read whole for them."""
    prompts = [(item.description, item.spans, fingerprint(item.video)) for item in items]
    return {
        "file": digest(*(mixture.fingerprint() for mixture in mixtures)),
        "model": networks.fingerprint(),
        "prompt": digest(prompts),
    }


def fingerprint(video: MaskedVideo | None) -> str | None:
    """The same on any machine, wherever its files lie."""
    if video is None:
        return None
    parts = video.frames, video.mask
    return digest(*(sha256(existing(x)) if is_file(x) else x for x in parts), video.start)
