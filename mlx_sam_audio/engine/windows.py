"""Windows over a long file, and how they blend where they overlap."""

from dataclasses import dataclass

import numpy as np

from ..errors import SAMAudioError
from .networks import Networks


@dataclass(frozen=True)
class Windows:
    """Where windows of `size` frames start, and how they blend over `frames` frames."""

    starts: tuple[int, ...]
    size: int
    frames: int

    @classmethod
    def over(cls, frames: int, size: int, overlap: int) -> "Windows":
        """The last window ends with the file, so all are equal and no frame is padding."""
        if frames <= size:
            return cls((0,), frames, frames)
        return cls((*range(0, frames - size, size - overlap), frames - size), size, frames)

    def weights(self) -> np.ndarray:
        """Cross-fade weights (windows, W); at every frame of the file they sum to one."""
        rows = np.ones((len(self.starts), self.size), np.float32)
        for k in range(1, len(self.starts)):
            shared = self.starts[k - 1] + self.size - self.starts[k]
            ramp = ((np.arange(shared) + 0.5) / max(shared, 1)).astype(np.float32)
            rows[k, :shared] *= ramp
            rows[k - 1, self.size - shared :] *= ramp[::-1]
        total = np.zeros(self.frames, np.float32)
        for start, row in zip(self.starts, rows, strict=True):
            total[start : start + self.size] += row
        return np.stack(
            [row / total[s : s + self.size] for s, row in zip(self.starts, rows, strict=True)]
        )


def window_frames(networks: Networks, window: float, overlap: float) -> tuple[int, int]:
    """Checked lengths in frames of window and overlap, given in seconds."""
    rate = networks.sample_rate / networks.hop_length
    codec = networks.network.audio_codec
    least = 2 * max(codec.encoder_halo, codec.decoder_halo) + 1
    most = networks.config.transformer.max_positions
    size, shared = round(min(window * rate, most + 1)), round(min(overlap * rate, most))
    if not least <= size <= most:
        raise SAMAudioError(
            f"the window ({window:g} s) must last from {least / rate:.2f} s, the codec's receptive "
            f"field, to {most / rate:.0f} s, the model's rotary table"
        )
    return size, min(shared, size - 1)
