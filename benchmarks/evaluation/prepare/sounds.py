"""Recordings as they are: found, checked, cut and given another name."""

import itertools
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soxr

from mlx_sam_audio.errors import SAMAudioError, SAMAudioWarning
from mlx_sam_audio.files import existing
from mlx_sam_audio.media import audio
from mlx_sam_audio.media.sound_files import Writer
from mlx_sam_audio.media.video_files import sound_start

SHORT = 0.5  # seconds that a recording may be shorter than it should be


def folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise SAMAudioError(f"there is no folder {path}")
    return Path(path)


def inside(root: Path, name: str) -> Path:
    """A file that a table names. Raises SAMAudioError if that lies elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise SAMAudioError(f"{name} is no name of a file in {root}")
    return root / name


def seconds(value: object) -> float:
    try:
        time = float(value)
    except (TypeError, ValueError):
        time = math.nan
    if not math.isfinite(time) or time < 0:
        raise SAMAudioError(f"{value!r} is no time in seconds")
    return time


@contextmanager
def exact() -> Iterator[None]:
    """What elsewhere is used as far as it goes, with a note, is no test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", SAMAudioWarning)
        try:
            yield
        except SAMAudioWarning as said:
            raise SAMAudioError(str(said)) from None


def described(path: Path) -> tuple[int, int]:
    """Rate and channels in which a recording is kept: its own, but the mean of more than two, which
    is what the reference takes."""
    first, rate, _ = audio.beginning(path)
    return rate, 2 if first.shape[1] == 2 else 1


def length(*paths: Path) -> float:
    """Seconds of recordings that must be equally long. Raises SAMAudioError."""
    found = []
    with exact():
        for path in paths:
            rate, _ = described(existing(path))
            found.append((sum(len(block) for block in audio.blocks(path, rate)), rate))
    for path, each in zip(paths, found, strict=True):
        if each != found[0]:
            (samples, rate), (others, another) = each, found[0]
            raise SAMAudioError(
                f"{path} has {samples} samples at {rate} Hz, {paths[0].name} {others} at {another}"
            )
    samples, rate = found[0]
    return samples / rate


def place(path: Path, target: Path) -> None:
    """The same file under another name, without its bytes once more where links are possible."""
    path, target = path.resolve(), target.with_suffix(path.suffix.lower())
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def cut(path: Path, start: float = 0.0, end: float = math.inf) -> tuple[np.ndarray, int]:
    """(T,) or (2, T) between seconds of a file, and the rate. Silence where its sound starts later,
    so that times stay what they are. Raises SAMAudioError."""
    rate, channels = described(existing(path))
    delay = sound_start(path)
    first = round((start - delay) * rate)
    last = math.inf if math.isinf(end) else round((end - delay) * rate)
    pieces, done = [], 0
    for block in audio.blocks(path, rate, channels):
        stop = min(max(last - done, 0), block.shape[-1])
        pieces.append(block[..., max(first - done, 0) : stop].copy())  # else all would be kept
        done += block.shape[-1]
        if done >= last:
            break
    wave = np.concatenate(pieces, axis=-1)
    if first < 0:
        wave = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(-first, 0)])
    wanted, there = end - start, wave.shape[-1] / rate
    if there == 0 or not math.isinf(wanted) and there < wanted - SHORT:
        raise SAMAudioError(
            f"{path} has {there:.1f} s of sound at {start:g} s, not {wanted:.1f} s: is it another "
            "version?"
        )
    return wave, rate


def add(paths: Sequence[Path], target: Path) -> None:
    """Write the sum of recordings, block by block: the same rate, channels and length."""
    kinds = {described(existing(path)) for path in paths}
    if len(kinds) > 1:
        raise SAMAudioError(f"{paths[0].parent} holds stems of several rates or channels")
    ((rate, channels),) = kinds
    writer = Writer(target, target, rate, channels=channels)
    try:
        with exact():
            for blocks in itertools.zip_longest(*(audio.blocks(p, rate, channels) for p in paths)):
                if len({None if block is None else block.shape for block in blocks}) > 1:
                    raise SAMAudioError(f"{paths[0].parent} holds stems of several lengths")
                writer.write(sum(blocks))
        writer.close()
    finally:
        writer.discard()


def as_librosa(path: Path, sample_rate: int) -> np.ndarray:
    """(T,) as `librosa.load(path, sr=sample_rate)` gives it: the mean of the channels, soxr's HQ,
    the length rounded up."""
    with exact():
        rate, _ = described(existing(path))
        wave = audio.read(path, rate)
    if rate == sample_rate:
        return wave
    samples = math.ceil(len(wave) * sample_rate / rate)
    made = soxr.resample(wave, rate, sample_rate, "HQ")[:samples]
    return np.pad(made, (0, samples - len(made)))
