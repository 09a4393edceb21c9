"""What a velocity depends on beside state and time: mixture, words, spans and video."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..media.video import Features
from ..models.dit import Moment
from ..models.sam_audio import Condition
from ..prompts import PADDING
from .mixture import Mixture
from .networks import Networks

Place = tuple[int, int]  # a voice, and the first frame of a window of it


@dataclass(eq=False)
class Conditions:
    """Conditions of any windows of the items of a batch, N frames long. A voice is one of the views
    of an item's mixture."""

    networks: Networks
    voices: Sequence[tuple[int, int]]  # item and view of each
    latents: Sequence[Mixture | np.ndarray]  # (N, views, C) of each item
    text: mx.array  # (items, L, d_model)
    text_mask: mx.array  # (items, L)
    moments: dict[float, Moment]
    anchors: np.ndarray  # (items, N) int32, PADDING beyond an item's end
    seen: Sequence[Features | None]
    _last: tuple | None = field(default=None, init=False)  # what was asked for last, and its answer

    def velocities(self, x: np.ndarray, t: float, places: Sequence[Place]) -> np.ndarray:
        """Of states x (B, W, 2C) at time t, (B, W, 2C)."""
        condition = self.at(places, x.shape[1])
        moment = Moment(*(self.of_items(part, places) for part in self.moments[t]))
        return np.array(self.networks.velocity(mx.array(x), moment, condition))

    def at(self, places: Sequence[Place], size: int) -> Condition:
        """The condition of windows of so many frames."""
        if self._last is None or self._last[0] != (places, size):
            self._last = (places, size), self._condition(places, size)
        return self._last[1]

    def _condition(self, places: Sequence[Place], size: int) -> Condition:
        distinct = list(dict.fromkeys(places))  # rows of one item differ in their noise alone
        cuts = [(*self.voices[voice], slice(start, start + size)) for voice, start in distinct]
        anchors = np.stack([self.anchors[item, cut] for item, _, cut in cuts])
        condition = self.networks.network.condition(
            mx.array(np.stack([self.latents[item][cut][:, view] for item, view, cut in cuts])),
            self.of_items(self.text, places),
            self.of_items(self.text_mask, places),
            mx.array(anchors),
            mx.array(anchors != PADDING) if (self.anchors == PADDING).any() else None,
            self._video(cuts),
        )
        if len(distinct) in (1, len(places)):
            return condition
        rows = mx.array([distinct.index(place) for place in places])
        pad_mask = None if condition.pad_mask is None else condition.pad_mask[rows]
        return condition._replace(static=condition.static[rows], pad_mask=pad_mask)

    def _video(self, cuts: Sequence[tuple[int, int, slice]]) -> mx.array | None:
        """What is seen, (windows, W, vision dim); zeros where nothing is, or an item has ended."""
        if all(seen is None for seen in self.seen):
            return None
        size = cuts[0][-1].stop - cuts[0][-1].start
        rows = np.zeros((len(cuts), size, self.networks.config.vision.dim), np.float32)
        for row, (item, _, cut) in zip(rows, cuts, strict=True):
            if self.seen[item] is not None:
                vectors = self.seen[item][cut]
                row[: len(vectors)] = vectors
        return mx.array(rows)

    def of_items(self, values: mx.array, places: Sequence[Place]) -> mx.array:
        """The rows of a batch's values that belong to places; one for all, where there is one."""
        items = [self.voices[voice][0] for voice, _ in places]
        if len(values) == 1 or items == list(range(len(values))):
            return values
        return values[mx.array(items)]
