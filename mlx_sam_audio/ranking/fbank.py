"""What ImageBind hears: clips of a waveform as log mel spectrograms, all in numpy.

Follows facebookresearch/ImageBind (imagebind/data.py) and torchaudio, which it calls: `resample`,
and Kaldi's `fbank` with a Hann window and no dither. K waveforms, T samples.
"""

import functools
import math
from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..media import audio
from ..models.imagebind import FRAMES, MELS

SAMPLE_RATE = 16_000
CLIP = 2  # seconds
CLIPS = 3
WINDOW, HOP, FFT = 400, 160, 512  # samples
LOWEST = 20.0  # Hz of the bands, which go up to half the sample rate
MEAN, STD = -4.268, 9.138  # of log energies, in the data that it was trained on
LARGEST = 2**20  # values in a resampling kernel, which odd rates would make gigabytes
ZERO_CROSSINGS, ROLLOFF = 6, 0.99  # of the resampling kernel


def starts(seconds: float, clips: int) -> list[Fraction]:
    """The seconds at which clips begin: the last one ends with the sound, as in the commit of
    pytorchvideo that ImageBind pins (6cdc929; its releases end earlier). Exact, as there: a clip's
    edge may lie on a sample or a frame."""
    return [i * Fraction(max(seconds - CLIP, 0)) / (clips - 1) for i in range(clips)]


def spectrograms(waves: np.ndarray, sample_rate: int) -> np.ndarray:
    """Waveforms (K, T) -> normalised log energies (K, CLIPS, MELS, FRAMES) float32."""
    waves = resample(waves, sample_rate)
    clips = []
    for start in starts(waves.shape[1] / SAMPLE_RATE, CLIPS):
        clip = waves[:, int(start * SAMPLE_RATE) : int((start + CLIP) * SAMPLE_RATE)]
        # in place, as in the original: the next clip, if it overlaps, sees it
        clip -= clip.mean(axis=1, keepdims=True)
        clips.append(fbank(clip))
    return (np.stack(clips, axis=1) - np.float32(MEAN)) / np.float32(STD)


def resample(waves: np.ndarray, sample_rate: int) -> np.ndarray:
    """(K, T) at `sample_rate` -> a new (K, T') at SAMPLE_RATE, as torchaudio does: a sinc under a
    squared cosine, one filter for each output sample of a period."""
    common = math.gcd(sample_rate, SAMPLE_RATE)
    old, new = sample_rate // common, SAMPLE_RATE // common
    if old == new:
        return waves.astype(np.float32)  # a copy
    if old * new > LARGEST:  # 44.1 kHz makes 70,560
        return audio.resample(waves.astype(np.float32), sample_rate, SAMPLE_RATE)
    taps, before = kernel(old, new)
    length = waves.shape[1]
    periods = -(-length // old)
    after = (periods + len(taps) - 1) * old - before - length
    blocks = np.pad(waves, ((0, 0), (before, after))).reshape(len(waves), -1, old)
    pieces = (blocks[:, i : i + periods] @ tap for i, tap in enumerate(taps))
    return functools.reduce(np.add, pieces).reshape(len(waves), -1)[:, : -(-new * length // old)]


def kernel(old: int, new: int) -> tuple[np.ndarray, int]:
    """(blocks, old, new) float32: what a block of `old` samples adds to `new` ones; and how many
    samples before the first of them the first block starts."""
    cutoff = ROLLOFF * min(old, new)
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    positions = np.arange(-width, width + old)[:, None] / old - np.arange(new) / new
    t = np.clip(positions * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    taps = np.sinc(t) * np.cos(t * math.pi / ZERO_CROSSINGS / 2) ** 2 * cutoff / old
    taps = np.pad(taps, ((0, -len(taps) % old), (0, 0)))
    return taps.reshape(-1, old, new).astype(np.float32), width


def fbank(waves: np.ndarray) -> np.ndarray:
    """(K, T) at SAMPLE_RATE -> log energies (K, MELS, FRAMES) float32, padded with zeros."""
    frames = sliding_window_view(waves, WINDOW, axis=1)[:, ::HOP].astype(np.float64)
    frames = frames - frames.mean(axis=2, keepdims=True)
    # pre-emphasis; the first sample stands for the one before it
    frames = frames - 0.97 * np.concatenate([frames[..., :1], frames[..., :-1]], axis=2)
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), FFT)) ** 2
    energies = np.log(np.maximum(power @ mel_filters(), np.finfo(np.float32).eps))
    energies = energies[:, :FRAMES].astype(np.float32).swapaxes(1, 2)
    return np.pad(energies, ((0, 0), (0, 0), (0, FRAMES - energies.shape[2])))


@functools.cache
def mel_filters() -> np.ndarray:
    """(FFT / 2 + 1, MELS): triangles that are linear in mel; the highest bin counts nowhere."""
    mel = 1127 * np.log1p(np.arange(FFT // 2) * SAMPLE_RATE / FFT / 700)
    lowest, highest = (1127 * math.log1p(hertz / 700) for hertz in (LOWEST, SAMPLE_RATE / 2))
    edges = np.linspace(lowest, highest, MELS + 2)
    step = edges[1] - edges[0]
    triangles = 1 - np.abs(mel[:, None] - edges[1:-1]) / step
    return np.pad(np.maximum(triangles, 0), ((0, 1), (0, 0)))
