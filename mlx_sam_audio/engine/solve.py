"""From noise to latents: recordings of any length as one coherent piece.

Overlapping windows solve one ODE: at every evaluation their velocities are cross-faded into one
field over the whole recording (MultiDiffusion, Bar-Tal et al., 2023), which starts from one noise.
A short recording is one window. `follow` does the same with one window after the other, each
following, where it overlaps, the trajectory that was fixed before it. N latent frames of the
recording, W of a window, C channels, R rows, which differ in their noise or their voice (see
`condition`).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .. import ode
from ..errors import check_finite
from .checkpoint import Checkpoint
from .condition import Conditions
from .progress import Watch
from .windows import Windows


class Field:
    """The velocity over the whole recording, where every window has its share.

    voices: of each row. at_once: how many windows, of whatever row, are evaluated at once.
    """

    def __init__(
        self,
        conditions: Conditions,
        windows: Windows,
        voices: Sequence[int],
        at_once: int,
        watch: Watch,
    ):
        self._conditions, self._windows, self._watch = conditions, windows, watch
        self._weights = windows.weights()[..., None]
        pairs = [(k, row) for k in range(len(windows.starts)) for row in range(len(voices))]
        self.evaluations = len(pairs)  # that one slope takes
        self._groups = [pairs[i : i + at_once] for i in range(0, len(pairs), at_once)]
        self._voices = voices

    def __call__(self, y: np.ndarray, t: float) -> Iterator[tuple[int, int, np.ndarray]]:
        """The velocity (b - a, R, 2C) of frames a..b of y (N, R, 2C), from first to last.

        No window that comes later reads those frames of y, so they may be overwritten.
        """
        windows, size = self._windows, self._windows.size
        first, held = 0, np.zeros((0, *y.shape[1:]), np.float32)
        for group in self._groups:
            starts = [windows.starts[k] for k, _ in group]
            x = np.stack([y[s : s + size, row] for s, (_, row) in zip(starts, group, strict=True)])
            places = [(self._voices[row], s) for s, (_, row) in zip(starts, group, strict=True)]
            velocities = self._conditions.velocities(x, t, places)
            for start, (k, row), v in zip(starts, group, velocities, strict=True):
                end, missing = start + size, start + size - first - len(held)
                held = np.concatenate([held, np.zeros((missing, *y.shape[1:]), np.float32)])
                held[start - first : end - first, row] += self._weights[k] * v
                if row == y.shape[1] - 1:  # the window's last
                    done = windows.starts[k + 1] if k + 1 < len(windows.starts) else windows.frames
                    yield first, done, held[: done - first]
                    first, held = done, held[done - first :]
            self._watch.advance("solve", len(group))


def solve(
    field: Field,
    x: np.ndarray,
    plan: Sequence[ode.Evaluation],
    watch: Watch,
    saved: Checkpoint | None = None,
) -> np.ndarray:
    """The state at t = 1, (N, R, 2C): all windows in step, x changed in place.

    saved: gives the step to start from and takes every further one.
    """
    first, x, kept = (0, x, ()) if saved is None else saved.load(x)
    watch.skip("solve", first * field.evaluations)
    for done, slopes in ode.integrate_in_place(field, x, plan, first, kept):
        check_finite(x)
        if saved is not None:
            saved.save(done, x, slopes)
    return x


def follow(
    conditions: Conditions,
    noise: np.ndarray,
    windows: Windows,
    plan: Sequence[ode.Evaluation],
    at_once: int,
    watch: Watch,
) -> Iterator[np.ndarray]:
    """States at t = 1, window after window: consecutive pieces (n, R, 2C) that are final, of noise
    (N, R, 2C), where row r is of voice r. at_once: how many rows are evaluated at once.

    In the overlap the velocity fades from the one that the windows before used, at the same
    times, to the window's own; so it starts on their trajectory and no seam shows.
    """
    rows = range(noise.shape[1])
    groups = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    fixed: list[np.ndarray] = []  # velocities of every evaluation on the frames that overlap
    for k, start in enumerate(windows.starts):
        after = windows.starts[k + 1] if k + 1 < len(windows.starts) else None
        before, fixed = fixed, []

        def field(t: float, x: np.ndarray, start=start, before=before, fixed=fixed, after=after):
            v = np.empty_like(x)
            for rows in groups:
                places = [(row, start) for row in rows]
                v[:, rows] = conditions.velocities(x[:, rows].swapaxes(0, 1), t, places).swapaxes(
                    0, 1
                )
                watch.advance("solve", len(rows))
            if before:
                old = before[len(fixed)]
                ramp = ((np.arange(len(old), dtype=np.float32) + 0.5) / len(old))[:, None, None]
                v[: len(old)] = (1 - ramp) * old + ramp * v[: len(old)]
            fixed.append(v[after - start :].copy() if after is not None else v[:0])
            return v

        *_, x = ode.integrate(field, noise[start : start + windows.size], plan)
        check_finite(x)
        yield x if after is None else x[: after - start]
