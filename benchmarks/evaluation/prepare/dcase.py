"""DCASE 2024 task 9, language-queried audio source separation: the synthetic validation set.

Mixed as by dcase_evaluator.py of Audio-AGI/dcase2024_task9_baseline, in float32 at 16 kHz.
"""

from functools import partial
from pathlib import Path

import numpy as np

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.media import sound_files

from . import tables
from .collection import Collection, Prompt, Wanted, named
from .sounds import as_librosa, folder, inside

SAMPLE_RATE = 16_000
COLUMNS = ("source", "noise", "snr", "caption")
PEAK = 0.9  # of mixtures that would clip


def read(source: str | Path, sounds: str | Path) -> Collection:
    """source: a csv of names, a signal-to-noise ratio in dB, and words. Raises SAMAudioError."""
    table, root = tables.read_csv(source), folder(sounds)
    if table.columns != COLUMNS:
        raise SAMAudioError(
            f"{source} has the columns {','.join(table.columns)}, not {','.join(COLUMNS)}"
        )
    items = [
        Wanted(
            id=named(f"{number:04d}", row["caption"]),
            prompt=Prompt(row["caption"], group=row["source"], settings={"dcase": "text"}),
            fill=partial(fill, root, row),
            origin=repr(list(row.values())),
        )
        for number, row in enumerate(table.rows)
    ]
    return Collection(
        name="dcase",
        version=table.version,
        licence="CC BY 4.0",
        source="https://zenodo.org/records/10886481",
        metric_rate=SAMPLE_RATE,
        aggregate="mean",
        items=items,
    )


def fill(root: Path, row: dict, into: Path) -> tuple[float, dict]:
    try:
        snr = int(row["snr"])
    except ValueError:
        raise SAMAudioError(f"its snr is {row['snr']!r}, not a whole number of dB") from None
    source, noise = (
        as_librosa(inside(root, f"{row[key]}.wav"), SAMPLE_RATE) for key in ("source", "noise")
    )
    target, mixture = mixed(source, noise, snr)
    sound_files.write(into / "mixture.wav", mixture, SAMPLE_RATE)
    sound_files.write(into / "target.wav", target, SAMPLE_RATE)
    return len(mixture) / SAMPLE_RATE, {}


def mixed(source: np.ndarray, noise: np.ndarray, snr: int) -> tuple[np.ndarray, np.ndarray]:
    """Source (T,) and its mixture (T,) with noise (T,) that is `snr` dB weaker in power, both
    turned down alike where the mixture would clip. Raises SAMAudioError."""
    if source.shape != noise.shape:
        raise SAMAudioError(f"its source has {len(source)} samples, its noise {len(noise)}")
    if not noise.any():
        raise SAMAudioError("its noise is silent: it cannot be given a level")
    power = np.mean(source**2) / 10 ** (snr / 10)
    mixture = source + noise * np.sqrt(power / np.mean(noise**2))
    peak = np.abs(mixture).max()
    gain = np.float32(PEAK / peak if peak > 1 else 1)
    return source * gain, mixture * gain
