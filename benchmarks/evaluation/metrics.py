"""How far an estimate is from a reference, in dB. All channels together, with one scale."""

import numpy as np

from mlx_sam_audio.ranking import metrics

TINY = 1e-12  # of the energy: nothing is beyond 120 dB, so that a perfect estimate stays finite


class Undefined(Exception):
    """A metric has no value here; the message says why in a few words."""


def sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """Signal-to-distortion ratio of (T,) or (C, T) against the same shape, at most 120 dB.

    No scale, filter or mean is forgiven: the SDR of the Music Demixing Challenge, elsewhere called
    SNR. A silent estimate has 0 dB. Undefined if the reference is silent.
    """
    estimate, source = _flat(estimate, "estimate"), _flat(source, "reference")
    if not source.any():
        raise Undefined("the reference is silent")
    return float(_ratio(_energy(source), _energy(source - estimate), _energy(source)))


def si_sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """`mlx_sam_audio.ranking.metrics.si_sdr` of (T,) or (C, T), free of the mean over all channels,
    within 120 dB. Undefined if either is silent but for a constant.
    """
    estimate, source = _sounding(estimate, "estimate"), _sounding(source, "reference")
    # as loud as the source, since what is far under it would count as silence
    return metrics.si_sdr(estimate * np.sqrt(_energy(source) / _energy(estimate)), source)


def si_sir_sar(
    estimate: np.ndarray, source: np.ndarray, residual: np.ndarray
) -> tuple[float, float]:
    """Scale-invariant ratios of signal to interference and to artefacts, within 120 dB.

    The estimate, (T,) or (C, T), is split into what is like the source, what else is like the
    residual, and the rest (Vincent et al., "Performance measurement in blind audio source
    separation", 2006, with filters of one tap). With si_sdr, as ratios of energies:
    1 / SDR = 1 / SIR + 1 / SAR + 1 / (SIR SAR). Undefined if one of the three is silent but for a
    constant, or if the residual is the source but for a gain.
    """
    estimate = _sounding(estimate, "estimate")
    source = _sounding(source, "reference")
    residual = _sounding(residual, "residual")
    other = residual - _along(residual, source)
    if _energy(other) <= TINY * _energy(residual):
        raise Undefined("the residual is the reference but for a gain")
    target, interference = _along(estimate, source), _along(estimate, other)
    wanted, whole = target + interference, _energy(estimate)
    sir = _ratio(_energy(target), _energy(interference), whole)
    return float(sir), float(_ratio(_energy(wanted), _energy(estimate - wanted), whole))


def museval_sdr(estimates: np.ndarray, sources: np.ndarray, sample_rate: int) -> np.ndarray:
    """SDR (S, F) in dB of each second of estimates (S, C, T) against sources (S, C, T).

    It is that of BSSEval v4 (Stöter, Liutkus, Ito, "The 2018 Signal Separation Evaluation
    Campaign"; museval 0.4.1), whose filters cancel out of the SDR of images. As there, a last part
    of a second is left out, a recording of less than a second is one frame, and a frame is NaN for
    all sources if any reference or estimate is silent in it; but a perfect frame has 120 dB where
    museval has infinity, which its tables leave out.
    """
    if np.shape(estimates) != np.shape(sources):
        raise ValueError(f"estimates {np.shape(estimates)} of sources {np.shape(sources)}")
    length = np.shape(sources)[-1]
    size = min(int(sample_rate), length)
    rows = []
    for start in range(0, length - size + 1, size):
        pair = [np.asarray(x[..., start : start + size], np.float64) for x in (estimates, sources)]
        estimate, source = pair
        energy = np.sum(source**2, axis=(1, 2))
        row = _ratio(energy, np.sum((source - estimate) ** 2, axis=(1, 2)), energy)
        # museval adds the channels to see whether they are silent: opposite ones count as silent
        silent = any((x.sum(1) == 0).all(-1).any() for x in pair)
        rows.append(np.full_like(row, np.nan) if silent else row)
    return np.stack(rows, 1)


def framewise_sdr(estimates: np.ndarray, sources: np.ndarray, sample_rate: int) -> float:
    """Median over frames of the first source's `museval_sdr`. Undefined if all of them are NaN."""
    if not np.isfinite(estimates).all():
        raise Undefined("the estimate is not finite")
    frames = museval_sdr(estimates, sources, sample_rate)[0]
    if np.isnan(frames).all():
        raise Undefined("no frame in which all of them sound")
    return float(np.nanmedian(frames))


def under(estimate: np.ndarray, mixture: np.ndarray) -> float:
    """How much fainter (C, T) is than its mixture in dB, at most 150. Undefined in silence."""
    if not _flat(mixture, "mixture").any():
        raise Undefined("the mixture is silent")
    faint = metrics.level(_flat(estimate, "estimate"))
    return min(metrics.level(mixture) - faint, 150.0)


def _flat(samples: np.ndarray, name: str) -> np.ndarray:
    samples = np.asarray(samples, np.float64).ravel()
    if not np.isfinite(samples).all():
        raise Undefined(f"the {name} is not finite")
    return samples


def _sounding(samples: np.ndarray, name: str) -> np.ndarray:
    """Flat, free of the mean."""
    samples = _flat(samples, name)
    free = samples - samples.mean()
    if _energy(free) <= TINY**2 * _energy(samples):  # what rounding leaves of a constant
        raise Undefined(f"the {name} is silent")
    return free


def _energy(samples: np.ndarray) -> float:
    return float(np.dot(samples, samples))


def _along(samples: np.ndarray, direction: np.ndarray) -> np.ndarray:
    return np.dot(samples, direction) / _energy(direction) * direction


def _ratio(
    signal: float | np.ndarray, noise: float | np.ndarray, whole: float | np.ndarray
) -> np.ndarray:
    """Of energies, in dB; less than TINY of the whole is as much as that."""
    with np.errstate(divide="ignore", invalid="ignore"):  # frames of silence
        return 10 * np.log10(np.maximum(signal, TINY * whole) / np.maximum(noise, TINY * whole))
