"""Video frames as the vision encoder wants them: which ones, at what size, in what batches.

Follows facebookresearch/sam-audio (sam_audio/processor.py, sam_audio/model/vision_encoder.py). All
of it runs on the host in numpy, so that a frame's bytes do not depend on the device. F frames, N
latent frames, S image size.
"""

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

BATCH = 8  # frames encoded at once


def nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted time (N,) the index of the nearest of `times` (F,), ascending. The earlier
    of two that are as near, as in the reference. (N,) int."""
    return np.searchsorted((times[1:] + times[:-1]) / 2, wanted, side="left")


def spread(frames: int, latents: int) -> np.ndarray:
    """Frames without times are taken evenly from first to last. (N,) int.

    As torch.linspace, in float32 and from both ends: a position may lie half-way between frames.
    """
    last, i = np.float32(frames - 1), np.arange(latents, dtype=np.float32)
    step = last / np.float32(max(latents - 1, 1))
    positions = np.where(i < latents // 2, step * i, last - step * (latents - 1 - i))
    return np.rint(positions if latents > 1 else 0 * i).astype(int)


def kernel(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5, which antialiasing filters use."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def bicubic(inputs: int, outputs: int) -> np.ndarray:
    """The matrix (outputs, inputs) of torch's antialiased bicubic interpolation, float32 as there.

    Pixel centres lie at halves; shrinking widens the kernel; weights sum to one at the borders too.
    """
    scale = np.float32(inputs) / np.float32(outputs)
    wide = max(scale, np.float32(1))
    centre = (scale * (np.arange(outputs, dtype=np.float32) + np.float32(0.5)))[:, None]
    taps = np.arange(inputs, dtype=np.float32)
    first = np.maximum(np.trunc(centre - 2 * wide + np.float32(0.5)), 0)
    last = np.trunc(centre + 2 * wide + np.float32(0.5))
    weights = kernel((taps - centre + np.float32(0.5)) * (1 / wide))
    weights = np.where((first <= taps) & (taps < last), weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def resize(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 (..., H, W) -> uint8 (..., S, S), as torchvision's Resize does it on uint8 tensors.

    Sums are taken in float64: float32 sums in another order round another way near a half.
    """
    height, width = frames.shape[-2:]
    if (height, width) == (size, size):
        return frames
    across, down = bicubic(width, size).T.astype(np.float64), bicubic(height, size)
    # one colour at a time: large frames take eight times their bytes here
    planes = frames.reshape(-1, height, width)
    rows = np.stack([(plane.astype(np.float64) @ across).astype(np.float32) for plane in planes])
    pixels = (down.astype(np.float64) @ rows.astype(np.float64)).astype(np.float32)
    pixels = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return pixels.reshape(*frames.shape[:-2], size, size)


def batches(frames: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Single frames (3, H, W) -> batches (<= BATCH, 3, S, S)."""
    held = []
    for frame in frames:
        held.append(resize(frame, size))
        if len(held) == BATCH:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def encode(encoder, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Vectors (<= BATCH, dim) float32 of batches of frames, one batch in memory at a time."""
    for batch in batches:
        yield np.array(encoder(mx.array(batch)))
