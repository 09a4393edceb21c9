"""The codec on files of any length: exact chunks, memory that does not grow.

Every chunk is computed with as much context on both sides as the layers can see (their receptive
field), and what comes of the context is thrown away, so that chunks joined equal the whole. What
is recurrent, the watermark, carries its state on.
"""

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

from .dacvae import DACVAE


def encode(
    codec: DACVAE, blocks: Iterable[np.ndarray], frames: int
) -> Iterator[tuple[mx.array, int]]:
    """Blocks of samples (B, t) -> pieces of latents (B, n, C), and how many samples each covers.

    frames: how many are computed at a time, beside the context.
    """
    hop, halo = codec.hop_length, codec.encoder_halo
    held, first, done = None, 0, 0  # samples from frame `first`; frames that are out

    def emit(count: int) -> tuple[mx.array, int]:
        nonlocal held, first, done
        skip = done - first
        latents = []
        for row in held[:, None, : (skip + count + halo) * hop]:  # one by one takes less memory
            latents.append(codec.encode(mx.array(row))[:, skip : skip + count])
            mx.eval(latents)
        latents = mx.concatenate(latents)
        samples = min(held.shape[1] - skip * hop, count * hop)
        done += count
        drop = max(done - halo, 0) - first
        held, first = held[:, drop * hop :], first + drop
        return latents, samples

    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        while held.shape[1] >= (done - first + frames + halo) * hop:
            yield emit(frames)
    while (left := -(-held.shape[1] // hop) - (done - first)) > 0:
        yield emit(min(frames, left))


def decode(
    codec: DACVAE, parts: Iterable[mx.array], message: mx.array | None, frames: int
) -> Iterator[mx.array]:
    """Consecutive latents (B, n, C) -> consecutive waveforms (B, m), as early as they are final."""
    halo = codec.decoder_halo
    held, first, done, kept = None, 0, 0, ()

    def emit(count: int) -> mx.array:
        nonlocal held, first, done, kept
        skip = done - first
        clean = []
        for row in held[:, None, : skip + count + halo]:
            clean.append(codec.decode_clean(row, skip, count))
            mx.eval(clean)
        clean, marked = mx.concatenate(clean), []
        step = max(count // len(clean), 1) * codec.hop_length  # all rows, but not the whole chunk
        for i in range(0, clean.shape[1], step):
            part, kept = codec.mark(clean[:, i : i + step], message, kept)
            mx.eval(part, kept)
            marked.append(part)
        audio = mx.concatenate(marked, axis=1)
        done += count
        drop = max(done - halo, 0) - first
        held, first = held[:, drop:], first + drop
        mx.eval(audio, held)  # held too: the next chunk may be wanted in another thread
        return audio

    def ready(context: int) -> int:
        return 0 if held is None else min(frames, held.shape[1] - (done - first) - context)

    for part in parts:
        held = part if held is None else mx.concatenate([held, part], axis=1)
        while (count := ready(halo)) > 0:
            yield emit(count)
    while (count := ready(0)) > 0:
        yield emit(count)
