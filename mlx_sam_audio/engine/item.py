"""What is asked of a run: recordings with their prompts, and how the caller accompanies it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np

from ..kinds import FilePath, Flag, Kind
from ..media.video import Features, MaskedVideo, aligned
from ..prompts import Span, anchors, check_prompt, check_words
from .mixture import Audio
from .networks import Networks
from .progress import Tell


@dataclass(frozen=True, eq=False)
class Item:
    """A recording and what is wanted of it."""

    mixture: Audio  # a `Mixture` once it is checked
    description: str
    spans: Sequence[Span] = ()
    video: MaskedVideo | None = None
    sample_rate: int | None = None  # of samples in an array, if not the model's
    predicted: bool = False  # the spans

    def checked(self, networks: Networks) -> "Item":
        spans = check_prompt(self.description, self.spans, self.video)
        check_words(self.description, networks.config.vocabulary)
        return replace(self, spans=spans)

    def anchors(self, networks: Networks) -> np.ndarray:
        """Of each frame, (N,) int32. Raises SAMAudioError for spans outside of the recording."""
        rates = networks.sample_rate, networks.hop_length
        return np.array(anchors(self.spans, self.mixture.samples, *rates))

    def aligned_video(self) -> MaskedVideo | None:
        return self.video and aligned(self.video, self.mixture.source)

    def seen(self, networks: Networks) -> Features | None:
        """What is seen at each latent frame, encoded when it is asked for."""
        if self.video is None:
            return None
        times = np.arange(len(self.mixture)) * networks.hop_length / networks.sample_rate
        size = networks.config.vision.image_size
        return Features(networks.vision, size, self.aligned_video(), times)


Cancel = Annotated[Callable[[], bool], Kind(callable, "a function")]


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """How the caller accompanies a run. resume: where its state is kept, and gone on from unless
    restart."""

    progress: Tell | None = None
    cancel: Cancel | None = None
    resume: FilePath | None = None
    restart: Flag = False


class Take(NamedTuple):
    """What one noise becomes: a result of each of some items of one recording."""

    seed: int
    items: Sequence[int]


def rows(takes: Sequence[Take], voices: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rows of a state: the number of a take, and of a voice (item, view) that it is of."""
    pairs = ((i, k, item) for i, _ in enumerate(takes) for k, (item, _) in enumerate(voices))
    return [(i, k) for i, k, item in pairs if item in takes[i].items]
