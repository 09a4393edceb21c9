"""Stems that are shares of the recording: what is heard of a sound says how much of each bin of
time and frequency it gets, so that all add up to the recording, and none holds what is not in it.

A prompt's odds are the power of its target over the power of its residual, as the model hears them
in all views of the recording together. Stem k gets odds_k / (1 + all odds), the rest 1 / (1 + all
odds). For one channel that is all. For two, shares of magnitudes, not powers, and then a Wiener
filter of K + 1 sources v(n, f) R(f) (Duong et al., 2010): v is a source's share of the
recording's magnitude, and R (2 x 2), the covariance of left and right in what the shares give, over
`SECONDS` on either side and `BINS` around. Only magnitudes of what the model makes are used, since
a codec need not keep phases. K prompts, C channels, V views, n frames, f bins, t samples.
"""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx
import numpy as np

WINDOW = 0.064  # seconds of a frame, about; a power of two of samples
OVERLAP = 4  # frames that hold a sample
SECONDS, BINS = 1.0, 2  # neighbours, on either side, that a covariance is taken over
EXPONENTS = {1: 0.75, 2: 0.5}  # of powers, by channels: see docs/stereo.md
BATCH = 64  # frames at a time
TINY = 1e-9  # power, far below what is heard
MOST = 1e6  # odds
FLOOR = 1e-6  # of a covariance's trace, so that it can be inverted


def frame_size(sample_rate: int) -> int:
    return 2 ** round(np.log2(WINDOW * sample_rate))


def neighbours(sample_rate: int) -> int:
    """Frames on either side that a covariance is taken over."""
    return round(SECONDS * sample_rate * OVERLAP / frame_size(sample_rate))


def work_bytes(sample_rate: int, channels: int, waves: int, prompts: int) -> int:
    """What `shares` holds at most, about. waves: that are heard."""
    size = frame_size(sample_rate)
    frames = BATCH + 2 * neighbours(sample_rate) if channels > 1 else 0
    spectra = BATCH * (channels + waves + (prompts + 1) * channels) + 5 * (prompts + 1) * frames
    return 5 * 4 * size * spectra


def shares(
    pieces: Iterable[tuple[np.ndarray, mx.array]],
    sample_rate: int,
    channels: int,
    look: Callable[[mx.array], object] = id,
) -> Iterator[mx.array]:
    """Consecutive pieces of a recording (C, t), and of targets and residuals (K, 2, V, t) as they
    are heard in it -> its stems and rest (K + 1, C, t), as long as it, but later.

    look: is shown the recording's spectra (C, n, f).
    """
    size, held, heard = frame_size(sample_rate), np.zeros((channels, 0), np.float32), ()

    def rows() -> Iterator[mx.array]:
        nonlocal held, heard
        for mixture, waves in pieces:
            held, heard = np.concatenate([held, mixture], axis=1), waves.shape[:3]
            yield mx.concatenate([mx.array(mixture), waves.flatten(0, 2)])

    def divided() -> Iterator[tuple[mx.array, mx.array]]:
        for spectra in transformed(rows(), size):
            x, waves = spectra[:channels], mx.unflatten(spectra[channels:], 0, heard)
            look(x)
            yield x, divide(waves, EXPONENTS[channels])

    if channels == 1:
        images = (x * part[:-1, None] for x, part in divided())
    else:
        images = wiener(divided(), neighbours(sample_rate))
    for stems in inverted(images, size):
        stems = stems[..., : held.shape[1]]  # the last frames end after the recording
        count = stems.shape[-1]
        whole, held = mx.array(held[:, :count]), held[:, count:]
        if count:
            made = mx.concatenate([stems, (whole - stems.sum(axis=0))[None]])
            mx.eval(made)
            yield made


def divide(waves: mx.array, exponent: float) -> mx.array:
    """The shares (K + 1, n, f) of stems and rest, from spectra (K, 2, V, n, f) of targets and
    residuals."""
    target, residual = (power(waves).sum(axis=2) + TINY).swapaxes(0, 1)
    odds = mx.minimum(target / residual, MOST) ** exponent
    total = 1 + odds.sum(axis=0)
    return mx.concatenate([odds / total, (1 / total)[None]])


def wiener(divided: Iterable[tuple[mx.array, mx.array]], context: int) -> Iterator[mx.array]:
    """Spectra (2, n, f) and shares (K + 1, n, f) -> images (K, 2, n, f) of the stems."""
    spectra = magnitudes = near = None  # frames that are not out, and of `near` those around them
    for x, part in divided:
        magnitude = part * mx.sqrt(power(x).mean(axis=0) + TINY)
        sums = around(x, part, magnitude)
        if near is None:
            spectra, magnitudes, near = x, magnitude, padded(sums, context, 0)
        else:
            spectra, magnitudes, near = (
                mx.concatenate(pair, axis=-2)
                for pair in ((spectra, x), (magnitudes, magnitude), (near, sums))
            )
        count = near.shape[-2] - 2 * context
        if count > 0:
            yield filtered(spectra[:, :count], magnitudes[:, :count], box(near, 2 * context + 1))
            spectra, magnitudes, near = (
                spectra[:, count:],
                magnitudes[:, count:],
                near[:, :, count:],
            )
            mx.eval(spectra, magnitudes, near)
    yield filtered(spectra, magnitudes, box(padded(near, 0, context), 2 * context + 1))


def around(x: mx.array, part: mx.array, magnitude: mx.array) -> mx.array:
    """What a covariance is made of, over some bins: (5, K + 1, n, f) of left, right, the real and
    the imaginary part of left * conj(right), and the magnitude."""
    cross = x[0] * mx.conj(x[1])
    products = mx.stack([*power(x), cross.real, cross.imag])[:, None] * mx.square(part)
    return box(
        mx.pad(mx.concatenate([products, magnitude[None]]), [(0, 0)] * 3 + [(BINS, BINS)]).swapaxes(
            -1, -2
        ),
        2 * BINS + 1,
    ).swapaxes(-1, -2)


def filtered(x: mx.array, magnitude: mx.array, sums: mx.array) -> mx.array:
    """Images (K, 2, n, f) from spectra (2, n, f), magnitudes (K + 1, n, f) and sums (5, K + 1, n,
    f), whose difference from the recording is shared by all."""
    *products, weight = sums
    left, right, real, imaginary = (magnitude * product / weight for product in products)
    cross = real + 1j * imaginary
    totals = [source.sum(axis=0) for source in (left, right, cross)]
    first, second = solved(*totals, *x)
    images = mx.stack([left * first + cross * second, mx.conj(cross) * first + right * second], 1)
    return (images + (x - images.sum(axis=0)) / len(images))[:-1]


def solved(
    left: mx.array, right: mx.array, cross: mx.array, x: mx.array, y: mx.array
) -> tuple[mx.array, mx.array]:
    """The solution of [[left, cross], [conj(cross), right]] (u, v) = (x, y), the larger channel
    eliminated first: such matrices are nearly singular wherever one source sounds alone."""
    floor = FLOOR * (left + right) + TINY**1.5
    swap = right > left
    p, q = mx.maximum(left, right) + floor, mx.minimum(left, right) + floor
    b = mx.where(swap, mx.conj(cross), cross)
    x, y = mx.where(swap, y, x), mx.where(swap, x, y)
    v = (y - mx.conj(b) * x / p) / mx.maximum(q - power(b) / p, floor)
    u = (x - b * v) / p
    return mx.where(swap, v, u), mx.where(swap, u, v)


def power(x: mx.array) -> mx.array:
    return mx.square(x.real) + mx.square(x.imag)


def padded(x: mx.array, before: int, after: int) -> mx.array:
    """With frames of zeros."""
    return mx.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, after), (0, 0)])


def box(x: mx.array, width: int) -> mx.array:
    """Sums of `width` neighbours along the axis before the last, in the same order everywhere, and
    without differences of large numbers, by doubling."""
    count, sums, offset, size = x.shape[-2] - width + 1, 0.0, 0, 1
    while size <= width:
        if width & size:
            sums = sums + x[..., offset : offset + count, :]
            offset += size
        x = x[..., :-size, :] + x[..., size:, :]
        size *= 2
    return sums


def transformed(pieces: Iterable[mx.array], size: int) -> Iterator[mx.array]:
    """Consecutive samples (rows, t) -> spectra (rows, n, f), every sample in `OVERLAP` of them."""
    hop, held = size // OVERLAP, None

    def take(count: int) -> mx.array:
        nonlocal held
        starts = mx.arange(count)[:, None] * hop
        frames = held[:, starts + mx.arange(size)]
        held = held[:, count * hop :]
        mx.eval(held)
        return mx.fft.rfft(frames * hann(size))

    for piece in pieces:
        if held is None:
            held = mx.zeros((len(piece), size - hop))
        held = mx.concatenate([held, piece], axis=1)
        while held.shape[1] >= size + (BATCH - 1) * hop:
            yield take(BATCH)
    held = mx.pad(held, [(0, 0), (0, size - hop + -held.shape[1] % hop)])
    while (left := (held.shape[1] - size) // hop + 1) > 0:
        yield take(min(left, BATCH))


def inverted(spectra: Iterable[mx.array], size: int) -> Iterator[mx.array]:
    """The samples (..., t) of consecutive spectra (..., n, f), by overlap-add."""
    hop, more, tail = size // OVERLAP, OVERLAP - 1, 0.0
    early = more  # hops before the first sample
    for batch in spectra:
        frames = mx.fft.irfft(batch, n=size) * (hann(size) / (3 / 8 * OVERLAP))
        parts, count = mx.unflatten(frames, -1, (OVERLAP, hop)), frames.shape[-2]
        total = sum(padded(parts[..., i, :], i, more - i) for i in range(OVERLAP))
        head = total[..., :more, :] + tail
        total = mx.concatenate([head, total[..., more:, :]], axis=-2)
        sound, tail = total[..., :count, :], total[..., count:, :]
        mx.eval(tail)
        yield sound[..., early:, :].flatten(-2)
        early = max(early - count, 0)


def hann(size: int) -> mx.array:
    """Its squares, a quarter apart, sum to 3/2."""
    return mx.square(mx.sin(mx.arange(size) * (np.pi / size)))
