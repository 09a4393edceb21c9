"""The codec on files of any length: exact chunks, memory that does not grow.

Every chunk is computed with as much context on both sides as the layers can see (their receptive
field), and what comes of the context is thrown away, so that chunks joined equal the whole. What
is recurrent, the watermark, carries its state on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from .dacvae import DACVAE


class Workers:
    """Who shares the chunks: one alone; several are a `Group` of the engine."""

    rank, size = 0, 1

    def joined(self, shape: Sequence[int], fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """The sum of what every worker puts into zeros of a shape."""
        whole = np.zeros(shape, np.float32)
        fill(whole)
        return whole


ONE = Workers()


def encode(
    codec: DACVAE, blocks: Iterable[np.ndarray], frames: int, workers: Workers = ONE
) -> Iterator[tuple[mx.array | None, int]]:
    """Blocks of samples (B, t) -> pieces of latents (B, n, C), and how many samples each covers.

    frames: how many are computed at a time, beside the context. workers: who share that; pieces of
    others are None.
    """
    hop, halo = codec.hop_length, codec.encoder_halo
    held, first, done, number = None, 0, 0, 0  # samples from frame `first`; frames that are out

    def emit(count: int) -> tuple[mx.array | None, int]:
        nonlocal held, first, done, number
        skip, latents = done - first, []
        mine = number % workers.size == workers.rank
        for row in held[:, None, : (skip + count + halo) * hop] if mine else ():
            latents.append(codec.encode(mx.array(row))[:, skip : skip + count])
            mx.eval(latents)  # one by one takes less memory
        latents, number = mx.concatenate(latents) if mine else None, number + 1
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
    codec: DACVAE,
    parts: Iterable[mx.array],
    message: mx.array | None,
    frames: int,
    workers: Workers = ONE,
) -> Iterator[mx.array]:
    """Consecutive latents (B, n, C) -> consecutive waveforms (B, m), as early as they are final:
    when there are as many chunks as workers, who share rows and chunks."""
    halo, hop = codec.decoder_halo, codec.hop_length
    held, first, done, kept = None, 0, 0, ()
    cuts: list[int] = []  # frames of the chunks that are next

    def emit() -> Iterator[mx.array]:
        nonlocal held, first, done, kept
        skip, ends = done - first, np.cumsum(cuts)
        chunks = [(int(end) - n, n) for end, n in zip(ends, cuts, strict=True)]

        def fill(clean: np.ndarray) -> None:
            rows = ((start, n, row) for start, n in chunks for row in range(len(held)))
            for number, (start, n, row) in enumerate(rows):
                if number % workers.size == workers.rank:
                    begin = max(skip + start - halo, 0)
                    part = held[row : row + 1, begin : skip + start + n + halo]
                    wave = codec.decode_clean(part, skip + start - begin, n)
                    clean[row, start * hop : (start + n) * hop] = wave[0]

        clean = mx.array(workers.joined((len(held), int(ends[-1]) * hop), fill))
        done += int(ends[-1])
        drop = max(done - halo, 0) - first
        held, first = held[:, drop:], first + drop
        cuts.clear()
        for start, n in chunks:
            step, marked = max(n // len(clean), 1) * hop, []  # all rows, but not the whole chunk
            for i in range(start * hop, (start + n) * hop, step):
                part, kept = codec.mark(
                    clean[:, i : min(i + step, (start + n) * hop)], message, kept
                )
                mx.eval(part, kept)
                marked.append(part)
            audio = mx.concatenate(marked, axis=1)
            mx.eval(audio, held)  # held too: the next chunk may be wanted in another thread
            yield audio

    def ready(context: int) -> int:
        left = 0 if held is None else held.shape[1] - (done - first) - sum(cuts) - context
        return min(frames, left)

    for part in parts:
        held = part if held is None else mx.concatenate([held, part], axis=1)
        while (count := ready(halo)) > 0:
            cuts.append(count)
            if len(cuts) == workers.size:
                yield from emit()
    while (count := ready(0)) > 0:
        cuts.append(count)
        if len(cuts) == workers.size:
            yield from emit()
    if cuts:
        yield from emit()
