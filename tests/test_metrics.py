"""The evaluation's metrics: closed forms, and what other tools say of the same signals."""

import numpy as np
import pytest

from benchmarks.evaluation.metrics import (
    Undefined,
    framewise_sdr,
    museval_sdr,
    sdr,
    si_sdr,
    si_sir_sar,
    under,
)

RATE = 1000
# of recording(): evaluate() of museval 0.4.1, whole and of its first 0.7 s
FRAMES = [
    [13.44896433, np.nan, 5.58022678, np.nan, -4.01812976],
    [0.74506692, np.nan, -4.23053866, np.nan, -8.18005508],
    [11.09141225, np.nan, 5.2399842, np.nan, 1.49610293],
]
SHORT = [[14.57073051], [0.95655557], [11.59577358]]
# si_bss_eval_sources(zero_mean=True) of fast_bss_eval 0.1.4 of the first and the third, flat
PARTS = [[2.88428082, 25.23467834, 2.92262451], [1.78661448, 19.81714484, 1.90056933]]
# bss_eval_images of mir_eval 0.8.2, SDR of the first 0.9 s
IMAGES = [13.87157524, 0.74268826, 11.18047483]


def orthogonal(*shape: int) -> np.ndarray:
    """Three signals free of the mean, orthogonal, of energy 1."""
    columns = np.random.default_rng(0).random((np.prod(shape), 4))
    columns[:, 0] = 1
    return np.linalg.qr(columns)[0].T[1:].reshape(3, *shape)


def recording(channels: int = 2, length: int = 5300) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and sources (3, C, T) of odd levels and means, alike and leaking. In the second
    second a source is silent, in the fourth an estimate, in the last one channel."""
    rng = np.random.default_rng(1)
    sources = rng.random((3, channels, length)) - np.array([0.5, 0.45, 0.4])[:, None, None]
    sources[1] = 0.3 * sources[1] + 0.2 * sources[0]
    leak = np.array([[1, 0.2, 0.05], [-0.1, 0.7, 0.2], [0.02, 0.5, 1.1]])
    noise = np.linspace(0.1, 1, length) * (rng.random(sources.shape) - 0.5)
    estimates = np.tensordot(leak, sources, 1) + noise
    sources[1, :, RATE : 2 * RATE] = 0
    estimates[2, :, 3 * RATE : 4 * RATE] = 0
    sources[0, 1:, 4 * RATE :] = 0
    return estimates, sources


def decibels(ratio: float) -> float:
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("shape", [(400,), (2, 200)])
def test_ratios_of_known_parts(shape):
    s, r, n = orthogonal(*shape)
    for k in (1e-3, 0.5, 40):
        assert sdr(s + k * n, s) == pytest.approx(-2 * decibels(k))
        assert si_sdr(s + k * n, s) == pytest.approx(-2 * decibels(k), abs=1e-5)
    a, b, c = 0.8, -0.3, 0.1
    estimate, residual = a * s + b * r + c * n, r + 0.7 * s  # of r only what the source has not
    sir, sar = si_sir_sar(estimate, s, residual)
    assert sir == pytest.approx(decibels(a**2 / b**2))
    assert sar == pytest.approx(decibels((a**2 + b**2) / c**2))
    assert si_sdr(estimate, s) == pytest.approx(decibels(a**2 / (b**2 + c**2)))
    assert sdr(estimate, s) == pytest.approx(decibels(1 / ((1 - a) ** 2 + b**2 + c**2)))
    assert sdr(s + residual, s) == pytest.approx(decibels(1 / (1 + 0.7**2)))  # the mixture
    changed = -3 * estimate + 5, 7 * s - 1
    assert si_sir_sar(*changed, residual / 9) == pytest.approx((sir, sar))
    assert si_sdr(*changed) == pytest.approx(si_sdr(estimate, s))
    assert si_sdr(1e-6 * estimate, s) == pytest.approx(si_sdr(estimate, s))


def test_what_is_not_target_is_interference_or_artefact():
    estimates, sources = recording()
    ratio = 10 ** (si_sdr(estimates[0], sources[0]) / 10)
    sir, sar = (10 ** (value / 10) for value in si_sir_sar(estimates[0], sources[0], sources[2]))
    assert 1 / ratio == pytest.approx(1 / sir + 1 / sar + 1 / (sir * sar))


def test_nothing_scores_beyond_120_decibels():
    s, r, n = orthogonal(2, 200)
    assert sdr(s, s) == pytest.approx(120)
    assert si_sdr(3 * s, s) == pytest.approx(120)
    assert si_sdr(r, s) == pytest.approx(-120)
    assert si_sir_sar(s, s, r) == pytest.approx((120, 120))
    assert si_sir_sar(r, s, r) == pytest.approx((-120, 120))
    assert museval_sdr(s[None], s[None], 100) == pytest.approx(np.full((1, 2), 120.0))


def test_silence_has_no_ratio():
    s, r, n = orthogonal(2, 200)
    none, constant = np.zeros((2, 200)), np.full((2, 200), 0.3)
    assert sdr(none, s) == 0
    for silent in (none, constant):
        for function in (si_sdr, lambda e, s: si_sir_sar(e, s, r)):
            with pytest.raises(Undefined, match="estimate is silent"):
                function(silent, s)
            with pytest.raises(Undefined, match="reference is silent"):
                function(s, silent)
        with pytest.raises(Undefined, match="residual is silent"):
            si_sir_sar(s, s, silent)
    with pytest.raises(Undefined, match="reference is silent"):
        sdr(s, none)
    with pytest.raises(Undefined, match="but for a gain"):
        si_sir_sar(s + n, s, (-0.3 * s).astype(np.float32))
    with pytest.raises(Undefined, match="no frame in which all of them sound"):
        framewise_sdr(np.stack([s, r]), np.stack([s, none]), 100)
    broken = np.where(np.arange(200) == 7, np.nan, s)
    for function in (sdr, si_sdr, under, lambda e, s: framewise_sdr(e[None], s[None], 100)):
        with pytest.raises(Undefined, match="estimate is not finite"):
            function(broken, s)


def test_how_far_under_the_mixture():
    mixture = orthogonal(2, 200)[0]
    assert under(0.1 * mixture, mixture) == pytest.approx(20)
    assert under(2 * mixture[:1], mixture[:1]) == pytest.approx(-2 * decibels(2))
    assert under(0 * mixture, mixture) == 150
    with pytest.raises(Undefined, match="mixture is silent"):
        under(mixture, 0 * mixture)


def test_frames_and_their_median():
    estimates, sources = recording()
    frames = museval_sdr(estimates, sources, RATE)
    assert frames == pytest.approx(np.array(FRAMES), abs=1e-7, nan_ok=True)
    assert framewise_sdr(estimates, sources, RATE) == pytest.approx(5.58022678)
    third = np.s_[:, 2 * RATE : 3 * RATE]
    assert frames[0, 2] == pytest.approx(sdr(estimates[0][third], sources[0][third]))
    short = museval_sdr(estimates[..., :700], sources[..., :700], RATE)
    assert short == pytest.approx(np.array(SHORT))
    sources[1, 1] = -sources[1, 0]  # museval adds channels to see whether they are silent
    assert np.isnan(museval_sdr(estimates, sources, RATE)).all()
    with pytest.raises(ValueError, match="of sources"):
        museval_sdr(estimates[:, :1], sources, RATE)


def test_ratios_of_other_tools():
    estimates, sources = recording()
    assert ratios(estimates[[0, 2]], sources[[0, 2]]) == pytest.approx(np.array(PARTS))
    images = [sdr(e[:, :900], s[:, :900]) for e, s in zip(estimates, sources, strict=True)]
    assert images == pytest.approx(IMAGES)


def test_museval_itself():
    museval = pytest.importorskip("museval")
    for channels, length in [(2, 5300), (2, 700), (1, 1999), (1, 1000)]:
        estimates, sources = recording(channels, length)
        theirs, *_ = museval.evaluate(moved(sources), moved(estimates), win=RATE, hop=RATE)
        frames = museval_sdr(estimates, sources, RATE)
        assert frames == pytest.approx(theirs, abs=1e-9, nan_ok=True)


def test_fast_bss_eval_itself():
    pytest.importorskip("fast_bss_eval")
    from fast_bss_eval.numpy import si_bss_eval_sources  # the one above it needs torch

    for channels, length in [(2, 900), (1, 3000)]:
        estimates, sources = (part[[0, 2]] for part in recording(channels, length))
        flat = sources.reshape(2, -1), estimates.reshape(2, -1)
        theirs = si_bss_eval_sources(*flat, zero_mean=True, compute_permutation=False)
        assert ratios(estimates, sources) == pytest.approx(np.transpose(theirs), abs=1e-6)


@pytest.mark.filterwarnings("ignore:mir_eval:FutureWarning")
def test_mir_eval_itself():
    separation = pytest.importorskip("mir_eval.separation")
    estimates, sources = recording(2, 900)
    theirs, *_ = separation.bss_eval_images(moved(sources), moved(estimates), False)
    assert list(map(sdr, estimates, sources)) == pytest.approx(theirs)
    estimates, sources = recording(2, 2500)
    theirs, *_ = separation.bss_eval_images_framewise(
        moved(sources), moved(estimates), window=RATE, hop=RATE
    )
    assert museval_sdr(estimates, sources, RATE) == pytest.approx(theirs, nan_ok=True)


def ratios(estimates: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """SI-SDR, SI-SIR and SI-SAR (2, 3) of two estimates, each the other's residual."""
    trios = zip(estimates, sources, sources[::-1], strict=True)
    return np.array([[si_sdr(e, s), *si_sir_sar(e, s, r)] for e, s, r in trios])


def moved(signals: np.ndarray) -> np.ndarray:
    """(S, C, T) as (S, T, C)."""
    return signals.swapaxes(1, 2)
