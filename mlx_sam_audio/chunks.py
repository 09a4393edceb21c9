"""The codec on files of any length: exact chunks, memory that does not grow.

Every chunk is computed with as much context on both sides as the layers can see (their receptive
field), and the context's results are thrown away, so that chunks joined equal the whole. What is
recurrent, the watermark, carries its state on.
"""

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

from .dacvae import DACVAE

FRAMES = 250  # latent frames computed at a time, beside the context


def encode(
    codec: DACVAE, blocks: Iterable[np.ndarray], frames: int = FRAMES
) -> Iterator[tuple[mx.array, int]]:
    """Blocks of samples (t,) -> pieces of latents (1, n, C), and how many samples each covers."""
    hop, halo = codec.hop_length, codec.encoder_halo
    held, first, done = np.zeros(0, np.float32), 0, 0  # samples from frame `first`; frames out

    def emit(count: int) -> tuple[mx.array, int]:
        nonlocal held, first, done
        skip = done - first
        segment = held[: (skip + count + halo) * hop]
        latents = codec.encode(mx.array(segment)[None])[:, skip : skip + count]
        mx.eval(latents)
        samples = min(len(held) - skip * hop, count * hop)
        done += count
        drop = max(done - halo, 0) - first
        held, first = held[drop * hop :], first + drop
        return latents, samples

    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= (done - first + frames + halo) * hop:
            yield emit(frames)
    while (left := -(-len(held) // hop) - (done - first)) > 0:
        yield emit(min(frames, left))


def decode(
    codec: DACVAE, parts: Iterable[mx.array], message: mx.array | None, frames: int = FRAMES
) -> Iterator[mx.array]:
    """Consecutive latents (B, n, C) -> consecutive waveforms (B, m), as early as they are final."""
    hop, halo = codec.hop_length, codec.decoder_halo
    held, first, done, kept = None, 0, 0, ()

    def emit(count: int) -> mx.array:
        nonlocal held, first, done, kept
        skip = done - first
        clean = codec.decode_clean(held[:, : skip + count + halo])
        audio, kept = codec.mark(clean[:, skip * hop : (skip + count) * hop], message, kept)
        mx.eval(audio, kept)
        done += count
        drop = max(done - halo, 0) - first
        held, first = held[:, drop:], first + drop
        return audio

    def ready(context: int) -> int:
        return 0 if held is None else min(frames, held.shape[1] - (done - first) - context)

    for part in parts:
        held = part if held is None else mx.concatenate([held, part], axis=1)
        while (count := ready(halo)) > 0:
            yield emit(count)
    while (count := ready(0)) > 0:
        yield emit(count)
