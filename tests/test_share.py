"""Shares of a recording: what they are exactly, for any waveforms that a model may make."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam_audio.engine import share
from mlx_sam_audio.ranking.metrics import si_sdr

RATE = 1000
SAMPLES = 3217
TIME = np.arange(SAMPLES) / RATE


def scene(channels: int, views: int, prompts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Panned noise bursts and tones (C, t), and targets and residuals (K, 2, V, t) as a model may
    hear them: nearly right."""
    rng = np.random.default_rng(seed)
    sounds = [
        np.sin(2 * np.pi * (60 + 70 * k) * TIME) * (np.sin(5 * TIME + 2 * k) > 0)
        + 0.3 * rng.normal(size=SAMPLES) * (np.sin(7 * TIME + 3 * k) > 0.3)
        for k in range(prompts + 1)
    ]
    angles = np.linspace(0.1, 1.4, prompts + 1)
    gains = (
        np.stack([np.cos(angles), np.sin(angles)], 1)
        if channels == 2
        else np.ones((prompts + 1, 1))
    )
    images = gains[:, :, None] * np.stack(sounds)[:, None]
    mixture = images.sum(axis=0)
    heard = images if views == channels else images.mean(axis=1, keepdims=True)
    targets = heard[:-1] + 0.02 * rng.normal(size=heard[:-1].shape)
    residuals = heard.sum(axis=0) - heard[:-1] + 0.02 * rng.normal(size=heard[:-1].shape)
    waves = np.stack([targets, residuals], axis=1)
    return mixture.astype(np.float32), waves.astype(np.float32)


def shared(mixture: np.ndarray, waves: np.ndarray, cuts: tuple[int, ...] = ()) -> np.ndarray:
    """Stems and rest (K + 1, C, t)."""
    edges = [0, *cuts, mixture.shape[1]]
    pieces = [(mixture[:, a:b], mx.array(waves[..., a:b])) for a, b in itertools.pairwise(edges)]
    stems = share.shares(pieces, RATE, len(mixture))
    return np.concatenate([np.array(stem) for stem in stems], axis=-1)


def plainly(mixture: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """The same in double precision, bin by bin, as the module's first lines say it."""
    size, context = share.frame_size(RATE), share.neighbours(RATE)
    hop, window = size // 4, np.hanning(size + 1)[:-1]
    rows = np.concatenate([mixture, waves.reshape(-1, SAMPLES)]).astype(float)
    rows = np.pad(rows, ((0, 0), (size - hop, size)))
    starts = range(0, SAMPLES + size - hop, hop)
    spectra = np.stack([np.fft.rfft(rows[:, s : s + size] * window) for s in starts], axis=1)
    x, heard = (
        spectra[: len(mixture)],
        spectra[len(mixture) :].reshape(*waves.shape[:3], len(starts), -1),
    )
    power = (np.abs(heard) ** 2).sum(axis=2) + share.TINY
    odds = np.minimum(power[:, 0] / power[:, 1], share.MOST) ** share.EXPONENTS[len(x)]
    parts = np.concatenate([odds, np.ones_like(odds[:1])]) / (1 + odds.sum(axis=0))
    images = parts[:, None] * x
    if len(x) == 2:
        weights = parts * np.sqrt((np.abs(x) ** 2).mean(axis=0) + share.TINY)
        images = np.zeros_like(images)
        for n, f in np.ndindex(x.shape[1:]):
            near = (slice(max(n - context, 0), n + context + 1), slice(max(f - 2, 0), f + 3))
            models = []
            for part, weight in zip(parts, weights, strict=True):
                y = (part * x)[(slice(None), *near)].reshape(2, -1)
                models.append(weight[n, f] * (y @ y.conj().T) / weight[near].sum())
            total = sum(models)
            total = total + (share.FLOOR * np.trace(total) + share.TINY**1.5) * np.eye(2)
            found = np.stack([model @ np.linalg.solve(total, x[:, n, f]) for model in models])
            images[:, :, n, f] = found + (x[:, n, f] - found.sum(axis=0)) / len(found)
    frames = np.fft.irfft(images, n=size) * window / 1.5
    stems = np.zeros((*images.shape[:2], rows.shape[1]))
    for start, frame in zip(starts, np.moveaxis(frames, 2, 0), strict=True):
        stems[..., start : start + size] += frame
    return stems[..., size - hop :][..., :SAMPLES]


SCENES = [(1, 1, 1), (1, 1, 3), (2, 1, 1), (2, 2, 1), (2, 2, 3)]


@pytest.mark.parametrize("size", SCENES)
def test_single_precision_is_enough(size):
    mixture, waves = scene(*size)
    stems, expected = shared(mixture, waves), plainly(mixture, waves)
    assert np.linalg.norm(stems - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", SCENES)
def test_chunks_are_the_whole_and_add_up(size):
    mixture, waves = scene(*size)
    whole = shared(mixture, waves)
    assert whole.shape == (size[2] + 1, *mixture.shape)
    assert np.abs(whole.sum(axis=0) - mixture).max() < 1e-6
    assert np.array_equal(shared(mixture, waves, cuts=(1, 640, 641, 2000)), whole)


def test_equal_channels_stay_equal():
    mixture, waves = scene(2, 2, 2)
    mixture[1], waves[:, :, 1] = mixture[0], waves[:, :, 0]
    stems = shared(mixture, waves)
    assert np.array_equal(stems[:, 0], stems[:, 1])


def test_opposite_channels_stay_opposite():
    mixture, waves = scene(2, 2, 2)
    mixture[1], waves[:, :, 1] = -mixture[0], -waves[:, :, 0]
    stems = shared(mixture, waves)
    assert np.array_equal(stems[:, 0], -stems[:, 1]) and stems[0].any()


def test_swapped_channels_come_out_swapped():
    mixture, waves = scene(2, 2, 2)
    swapped = shared(mixture[::-1].copy(), waves[:, :, ::-1].copy())
    assert np.abs(swapped[:, ::-1] - shared(mixture, waves)).max() < 1e-5


def test_a_silent_channel_stays_silent():
    mixture, waves = scene(2, 2, 2)
    mixture[1], waves[:, :, 1] = 0, 0
    stems = shared(mixture, waves)
    assert not stems[:, 1].any() and stems[0, 0].any()
    assert not shared(0 * mixture, 0 * waves).any()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_order_of_prompts_is_the_order_of_stems(channels):
    mixture, waves = scene(channels, channels, 3)
    stems, turned = shared(mixture, waves), shared(mixture, waves[[2, 0, 1]])
    assert np.abs(turned - stems[[2, 0, 1, 3]]).max() < 1e-5


@pytest.mark.parametrize("channels", [1, 2])
def test_a_prompt_given_twice_is_halved(channels):
    mixture, waves = scene(channels, channels, 2)
    first, second, *_ = shared(mixture, waves[[0, 0, 1]])
    assert np.abs(first - second).max() < 1e-6 and first.any()


def test_what_is_heard_rightly_is_separated():
    """Two sounds in the same bins, from two directions, of which only the powers are told."""
    rng = np.random.default_rng(1)
    sounds = rng.normal(size=(2, SAMPLES)) * (1 + 0.9 * np.sin([9 * TIME, 13 * TIME]))
    images = np.array([[1, 0.2], [0.3, 1]])[:, :, None] * sounds[:, None]
    heard = rng.choice([-1, 1], (2, 1, 1)) * images  # with any sign
    stems = shared(*(x.astype(np.float32) for x in (images.sum(axis=0), heard[None])))
    for stem, image in zip(stems, images, strict=True):
        before = si_sdr(images.sum(axis=0).ravel(), image.ravel())
        assert si_sdr(stem.ravel(), image.ravel()) > before + 12


def test_a_quiet_passage_after_a_loud_one_is_as_exact():
    mixture, waves = scene(2, 2, 1)
    mixture[:, 1000:], waves[..., 1000:] = 1e-4 * mixture[:, 1000:], 1e-4 * waves[..., 1000:]
    stems, expected = (f(mixture, waves)[..., 2200:] for f in (shared, plainly))
    assert np.linalg.norm(stems - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("channels, views, prompts", [(1, 1, 3), (2, 1, 1), (2, 2, 3)])
def test_what_it_takes_is_planned(channels, views, prompts):
    rate, rng = 16_000, np.random.default_rng(0)
    shapes = (channels, rate // 2), (prompts, 2, views, rate // 2)
    pieces = ([rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(8))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in share.shares(((x, mx.array(waves)) for x, waves in pieces), rate, channels):
        pass
    planned = share.work_bytes(rate, channels, 2 * prompts * views, prompts)
    assert 0.5 * planned < mx.get_peak_memory() - before < planned
