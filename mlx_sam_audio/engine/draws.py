"""All that a seed decides: the noise at t = 0 and the bits of the watermark."""

import mlx.core as mx

from ..errors import SAMAudioError
from ..kinds import as_array
from ..models.dacvae import CodecConfig
from ..models.watermark import BITS

NOISE_BLOCK = 256  # frames


def noise(
    codec: CodecConfig, frames: int, seeds: list[int], given: mx.array | None = None
) -> mx.array:
    """The state at t = 0, (B, N, 2C) float32, one item for each seed, unless it is given."""
    channels = 2 * codec.codebook_dim
    if given is None:
        return mx.stack([noise_of(seed, frames, channels) for seed in seeds])
    given, shape = as_array(given).astype(mx.float32), (len(seeds), frames, channels)
    if given.shape not in (shape, (1, *shape[1:])):
        raise SAMAudioError(f"noise must be {shape} for this audio, not {given.shape}")
    if not mx.isfinite(given).all().item():
        raise SAMAudioError("noise holds NaN or infinite values")
    return mx.broadcast_to(given, shape)


def noise_of(seed: int, frames: int, channels: int) -> mx.array:
    """Gaussian noise (frames, channels), of which more frames only ever extend the end."""
    key, blocks = mx.random.split(mx.random.key(seed))[0], []
    for _ in range(0, frames, NOISE_BLOCK):
        key, block = mx.random.split(key)
        blocks.append(mx.random.normal((NOISE_BLOCK, channels), key=block))
    return mx.concatenate(blocks)[:frames]


def message(
    codec: CodecConfig, seeds: list[int], given: mx.array | None = None, watermark: bool = True
) -> mx.array | None:
    """The watermark's bits, (2B, 16) of zeros and ones; None for the clean decode."""
    if not watermark or not codec.watermark:
        if given is not None:
            raise SAMAudioError("a message was given, but there is no watermark to carry it")
        return None
    shape = (2 * len(seeds), BITS)
    if given is None:
        keys = [mx.random.split(mx.random.key(seed))[1] for seed in seeds]
        return mx.concatenate([mx.random.bernoulli(0.5, (2, BITS), key=key) for key in keys])
    given = as_array(given)
    if given.shape != shape or not ((given == 0) | (given == 1)).all().item():
        raise SAMAudioError(f"message must be {shape} of zeros and ones, got {given.shape}")
    return given
