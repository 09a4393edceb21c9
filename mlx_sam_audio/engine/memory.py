"""What a run takes in memory, and how to cut it into pieces that fit.

The factors are what MLX's CPU backend was seen to hold at most (`python -m benchmarks.speed`
prints the peaks of every stage), rounded up.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..errors import SAMAudioError
from ..models import cpu
from ..models.cpu import on_cpu
from ..models.sam_audio import ModelConfig

CODEC = 10  # arrays of the codec's widest layer that live at once
SOLVER = 44  # arrays (N, D) that live at once in an evaluation
WORK_BYTES = 5 * 2**26  # activations at a time, where more would gain little speed
HALO = 5  # frames that a chunk's context is worth
MOST_FRAMES = 250
LEAST_FRAMES = 8
MOST_WINDOWS = 8
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    frames: int  # of the recording, in latents
    size: int  # frames of a window
    windows: int = 1  # of the recording
    rows: int = 1  # states: of candidates, items of a batch, prompts, views
    together: int = 1  # rows that are decoded at once
    samples: int = 0  # of waveforms that are kept until all are there
    filter: int = 0  # bytes that shares of the recording take


@dataclass(frozen=True)
class Pieces:
    """How it is cut."""

    windows: int  # solved in one evaluation, of whatever row
    frames: int  # in one chunk of the codec, beside its halo
    bytes: int  # the highest that is expected, weights included


def pieces(config: ModelConfig, weights: int, work: Work, limit: int | None = None) -> Pieces:
    """How to cut the work so that it fits `limit` bytes, or what the machine offers.

    weights: bytes of the loaded networks. Raises SAMAudioError that says what would fit.
    """
    available = offered(limit)
    # of each row the latents, the state, slopes that are kept
    state = 10 * work.rows * work.frames * config.codec.codebook_dim * 4 + 4 * work.samples
    state += work.filter
    solver, codec = solver_bytes(config, work.size), codec_bytes(config)
    left = available - weights - state
    least = max(solver, max(LEAST_FRAMES + HALO, 2 * work.together) * codec)
    if left < least:
        raise SAMAudioError(
            f"this needs {text(weights + state + least)} of memory, and there are "
            f"{text(max(available, 0))}: the weights take {text(weights)}, what is kept "
            f"{text(state)}, solving {text(solver)}; allow more, or choose a "
            "smaller or quantised model, or a shorter window"
        )
    count = min(work.windows * work.rows, min(left, WORK_BYTES) // solver, MOST_WINDOWS)
    count = max(count, 1)
    chunk = min(min(left, WORK_BYTES) // codec - HALO, MOST_FRAMES)
    chunk = max(chunk, LEAST_FRAMES)
    # the watermark marks at least a frame of every stem at a time
    stems = 2 * max(min(count, work.rows), work.together)
    peak = max(count * solver, max(min(chunk, work.frames) + HALO, stems) * codec)
    return Pieces(count, chunk, weights + state + peak)


def itemsize(config: ModelConfig) -> int:
    """Bytes of an activation: float32 where stand-ins are used, whatever the weights are."""
    return 4 if cpu.used() else getattr(mx, config.dtype).size


def solver_bytes(config: ModelConfig, size: int) -> int:
    """Activations of one evaluation on one window of `size` frames."""
    transformer = config.transformer
    values = SOLVER * size * transformer.dim
    if writes_scores(config):
        values += 5 * transformer.n_heads * size**2
    return values * itemsize(config)


def writes_scores(config: ModelConfig) -> bool:
    """Are attention scores written out? By the CPU's stand-in as by MLX there, and by CUDA, which
    has fused attention of 16 bits only."""
    return on_cpu() or (not mx.metal.is_available() and config.dtype == "float32")


def codec_bytes(config: ModelConfig) -> int:
    """Activations for each latent frame of one stem."""
    codec = config.codec
    widest = max(codec.encoder_dim, codec.decoder_dim // 2 ** len(codec.decoder_rates))
    return CODEC * widest * codec.hop_length * itemsize(config)


def machine() -> int:
    """Bytes that a run may take on this machine."""
    if on_cpu():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    info = mx.device_info()
    if "max_recommended_working_set_size" in info:  # Metal tells it
        return int(info["max_recommended_working_set_size"])
    return int(info["total_memory"]) * 9 // 10  # CUDA: of the card


def offered(limit: int | None) -> int:
    """Bytes that a run may take: its limit, or else what the machine offers."""
    return machine() if limit is None else int(limit)  # NumPy's may overflow


@contextlib.contextmanager
def wired(limit: int | None) -> Iterator[None]:
    """On the GPU, keep the weights resident, and all memory within `limit` bytes, while the body
    runs: MLX's cache shrinks and its queue waits for that."""
    if on_cpu():
        yield
        return
    old = mx.set_wired_limit(machine()), mx.set_memory_limit(offered(limit))
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(old[0])
        mx.set_memory_limit(old[1])


def parse(given: str) -> int:
    """Bytes of "8GB", "512 MB", "2.5G"; a K, M, G or T is 1024 of the one before."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?)(i?B)?\s*", given, re.IGNORECASE)
    if not match or not 0 < float(match[1]) < 1e15:
        raise SAMAudioError(f"{given!r} is no amount of memory: write it like 8GB or 512MB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def text(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
