"""Sound files: read any as mono at one rate, write one whole or not at all."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from .errors import SAMAudioError

SUBTYPES = {".wav": "FLOAT", ".flac": "PCM_24"}


def read(path: str | Path, sample_rate: int) -> np.ndarray:
    """The file's sound, channels averaged, at `sample_rate`: (T,) float32."""
    path = Path(path)
    if not path.is_file():
        raise SAMAudioError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise SAMAudioError(f"{path} is empty")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        samples, rate = read_container(path, error)
    if len(samples) == 0:
        raise SAMAudioError(f"{path} holds no samples")
    mono = samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="VHQ")
    return mono


def read_container(path: Path, reason: Exception) -> tuple[np.ndarray, int]:
    """What libsndfile cannot read (m4a, mp4, mov, ...), by PyAV: (T, channels) and the rate."""
    try:
        import av
    except ImportError:
        raise SAMAudioError(
            f"cannot read {path} ({reason}): for m4a, mp4, mov and other containers, "
            "`pip install 'mlx-sam-audio[video]'`"
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise SAMAudioError(f"{path} has no sound")
            stream = container.streams.audio[0]
            rate = stream.rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            blocks = [
                part.to_ndarray().T
                for frame in [*container.decode(stream), None]
                for part in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise SAMAudioError(f"cannot read {path}: {error}") from None
    return (np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)), rate


def writable(path: str | Path) -> Path:
    """`path`, if its name can be written to; a clear error before any work is done otherwise."""
    path = Path(path)
    if path.suffix.lower() not in SUBTYPES:
        raise SAMAudioError(f"cannot write {path}: the name must end in {' or '.join(SUBTYPES)}")
    if path.is_dir():
        raise SAMAudioError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SAMAudioError(f"cannot make the folder {path.parent}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise SAMAudioError(f"cannot write into the folder {path.parent}")
    return path


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> str | None:
    """Write (T,) as 32-bit float wav or 24-bit flac, whole or not at all.

    Returns a sentence if the sound passes full scale. A wav keeps such a peak; a flac cannot, so
    there the whole file is turned down until it fits.
    """
    path = writable(path)
    peak, notice = float(np.abs(samples).max(initial=0.0)), None
    if peak > 1:
        decibels = 20 * np.log10(peak)
        notice = f"{path} peaks {decibels:.1f} dB above full scale"
        if path.suffix.lower() == ".flac":
            samples = samples / peak
            notice += f"; flac cannot hold that, so it was turned down by {decibels:.1f} dB"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    kind = path.suffix.lower()
    try:
        soundfile.write(
            temporary, samples, sample_rate, subtype=SUBTYPES[kind], format=kind[1:].upper()
        )
        os.replace(temporary, path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise SAMAudioError(f"cannot write {path}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return notice
