"""From noise to latents: recordings of any length as one coherent piece.

Overlapping windows solve one ODE: at every evaluation their velocities are cross-faded into one
field over the whole recording (MultiDiffusion, Bar-Tal et al., 2023), which starts from one noise.
A short recording is one window. `follow` does the same with one window after the other, each
following, where it overlaps, the trajectory that was fixed before it. N latent frames of the
recording, W of a window, C channels, R rows, which differ in their noise or their voice (see
`condition`).
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from .. import ode
from ..errors import check_finite
from .checkpoint import Checkpoint
from .condition import Conditions
from .group import Group
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
        self.group = conditions.networks.group
        pairs = [(k, row) for k in range(len(windows.starts)) for row in range(len(voices))]
        self.evaluations = len(pairs)  # that one slope takes
        at_once = min(at_once, -(-len(pairs) // self.group.size))  # some for everybody
        self._batches = [pairs[i : i + at_once] for i in range(0, len(pairs), at_once)]
        self._voices = voices

    def __call__(self, y: np.ndarray, t: float) -> Iterator[tuple[int, int, np.ndarray]]:
        """The velocity (b - a, R, 2C) of frames a..b of y (N, R, 2C), from first to last.

        No window that comes later reads those frames of y, so they may be overwritten.
        """
        if self.group.size > 1:
            yield 0, len(y), self.group.joined(y.shape, partial(self._fill, y, t))
            self._watch.advance("solve", self.evaluations - sum(map(len, self._mine)))
            return
        windows, size = self._windows, self._windows.size
        first, held = 0, np.zeros((0, *y.shape[1:]), np.float32)
        for start, k, row, v in self._velocities(y, t, self._batches):
            end, missing = start + size, start + size - first - len(held)
            held = np.concatenate([held, np.zeros((missing, *y.shape[1:]), np.float32)])
            held[start - first : end - first, row] += v
            if row == y.shape[1] - 1:  # the window's last
                done = windows.starts[k + 1] if k + 1 < len(windows.starts) else windows.frames
                yield first, done, held[: done - first]
                first, held = done, held[done - first :]

    @property
    def _mine(self) -> list[list[tuple[int, int]]]:
        """The batches of this process: a run of neighbours, for each as many as possible."""
        first, end = (
            len(self._batches) * i // self.group.size
            for i in (self.group.rank, self.group.rank + 1)
        )
        return self._batches[first:end]

    def _fill(self, y: np.ndarray, t: float, field: np.ndarray) -> None:
        """Add this process's part of the velocity to a field of zeros."""
        for start, _, row, v in self._velocities(y, t, self._mine):
            field[start : start + len(v), row] += v

    def _velocities(
        self, y: np.ndarray, t: float, batches: Sequence[Sequence[tuple[int, int]]]
    ) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Of the windows in batches: start, number and row of each, and its share of the field."""
        windows, size = self._windows, self._windows.size
        for batch in batches:
            starts = [windows.starts[k] for k, _ in batch]
            x = np.stack([y[s : s + size, row] for s, (_, row) in zip(starts, batch, strict=True)])
            places = [(self._voices[row], s) for s, (_, row) in zip(starts, batch, strict=True)]
            velocities = self._conditions.velocities(x, t, places)
            for start, (k, row), v in zip(starts, batch, velocities, strict=True):
                yield start, k, row, self._weights[k] * v
            self._watch.advance("solve", len(batch))


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
    first, x, kept = (0, x, ()) if saved is None else loaded(saved, x, field.group)
    watch.skip("solve", first * field.evaluations)
    for done, slopes in ode.integrate_in_place(field, x, plan, first, kept):
        check_finite(x)
        if saved is not None and field.group.rank == 0:
            saved.save(done, x, slopes)
    return x


def loaded(
    saved: Checkpoint, noise: np.ndarray, group: Group
) -> tuple[int, np.ndarray, Sequence[np.ndarray]]:
    """What all processes of a group go on from, which the first one has."""
    if group.size == 1:
        return saved.load(noise)
    found = (0, noise, [])

    def counts() -> tuple[int, int]:
        nonlocal found
        found = saved.load(noise)
        return found[0], len(found[2])

    done, slopes = group.of_first((2,), counts).astype(int)
    if not done:
        return 0, noise, []
    x, *kept = (
        group.of_first(noise.shape, lambda i=i: [found[1], *found[2]][i]) for i in range(1 + slopes)
    )
    return int(done), x, kept


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
