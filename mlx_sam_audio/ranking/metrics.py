"""How well a waveform matches a known source."""

import numpy as np


def si_sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of (T,) against (T,).

    Le Roux et al., "SDR - half-baked or well done?", 2019. Both are made free of their mean.
    """
    estimate = np.asarray(estimate, np.float64) - np.mean(estimate, dtype=np.float64)
    source = np.asarray(source, np.float64) - np.mean(source, dtype=np.float64)
    energy = np.dot(source, source)
    if energy == 0:
        return -np.inf
    projection = np.dot(estimate, source) / energy * source
    error = estimate - projection
    tiny = 1e-12 * energy  # keeps a perfect and an empty estimate finite
    return float(
        10 * np.log10((np.dot(projection, projection) + tiny) / (np.dot(error, error) + tiny))
    )


def level(samples: np.ndarray) -> float:
    """RMS level in dB of full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))
