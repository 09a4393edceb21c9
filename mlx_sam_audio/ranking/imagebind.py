"""Does a sound belong to what a video shows? ImageBind's audio and vision towers compare them.

Follows facebookresearch/sam-audio (sam_audio/ranking/imagebind.py) and facebookresearch/ImageBind
(imagebind/data.py). The weights are under CC BY-NC-SA 4.0.
"""

import math
from fractions import Fraction
from typing import Annotated

import mlx.core as mx
import numpy as np

from ..calls import public
from ..errors import SAMAudioError, check_finite
from ..kinds import Hertz, Kind, Samples, one_of
from ..loading import load
from ..media.video import MaskedVideo, matched
from ..models.imagebind import IMAGE, PAIR, ImageBindConfig, ImageBindNetwork
from . import fbank

NAME = "imagebind"
FRAME_RATE = 25  # of SAM-Audio's latents: the pictures among which it chooses
CLIPS, CROPS = 5, 3  # of a video, of a picture
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]


Shown = Annotated[
    MaskedVideo | np.ndarray, Kind(one_of(MaskedVideo, np.ndarray), "a MaskedVideo, or frames")
]


class ImageBind(load.Auxiliary):
    NAME, CONFIG, NETWORK = NAME, ImageBindConfig, ImageBindNetwork

    @public
    def __call__(self, candidates: Samples, sample_rate: Hertz, video: Shown) -> np.ndarray:
        """Cosines (k,) float32 of the angles between sounds and a video, higher is better.

        candidates: samples (k, T) that were separated from the video's sound. video: the one that
        prompted them, or its frames, uint8 (F, 3, H, W), with black where the thing is: the
        reference compares with the masked video. Raises SAMAudioError.
        """
        candidates = np.array(candidates, dtype=np.float32)
        check(candidates, sample_rate)
        shown = self.embed_video(video, candidates.shape[1] / sample_rate)
        scores = self.embed_audio(candidates, sample_rate) @ shown
        check_finite(scores, "ImageBind's result")
        return scores

    def embed_audio(self, waves: np.ndarray, sample_rate: int) -> np.ndarray:
        """Samples (k, T) -> (k, E) of unit length."""
        clips = fbank.spectrograms(waves, sample_rate)
        embedded = self.network.audio(mx.array(clips).flatten(0, 1))
        return unit(np.array(embedded).reshape(*clips.shape[:2], -1).mean(axis=1))

    def embed_video(self, video: MaskedVideo | np.ndarray, seconds: float) -> np.ndarray:
        """The part of a video that goes with so many seconds of sound -> (E,) of unit length."""
        if isinstance(video, np.ndarray):
            video = MaskedVideo(video)
        return unit(np.array(self.network.vision(mx.array(views(video, seconds)))).mean(axis=0))


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors (..., E) scaled to length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def check(candidates: np.ndarray, sample_rate: int) -> None:
    if candidates.ndim != 2 or not len(candidates):
        raise SAMAudioError(
            f"candidates must be (k, samples), at least one, not {candidates.shape}"
        )
    shortest = math.ceil(fbank.WINDOW * Fraction(sample_rate, fbank.SAMPLE_RATE))
    if candidates.shape[1] < shortest:
        raise SAMAudioError(
            f"a candidate has {candidates.shape[1]} samples: ImageBind needs at least {shortest} "
            f"at {sample_rate} Hz"
        )
    if not np.isfinite(candidates).all():
        raise SAMAudioError("a candidate holds NaN or infinite samples")


def views(video: MaskedVideo, seconds: float) -> np.ndarray:
    """Two frames of each clip, cropped: (CLIPS * CROPS, 3, PAIR, IMAGE, IMAGE) float32."""
    frames = math.ceil(round(seconds * FRAME_RATE, 6))  # 1.16 * 25 is not quite 29
    chosen, pictures, done = ends(frames, seconds), {}, 0
    wanted = np.unique(chosen)
    for frame, count in matched(video, np.arange(frames) / FRAME_RATE):
        here = wanted[(done <= wanted) & (wanted < done + count)]
        if len(here):
            pictures.update(dict.fromkeys(here.tolist(), crops(frame)))
        done += count
    shown = np.stack([[pictures[i] for i in pair] for pair in chosen.tolist()])
    return shown.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3, PAIR, IMAGE, IMAGE)


def ends(frames: int, seconds: float) -> np.ndarray:
    """First and last frame of every clip: (CLIPS, PAIR) int."""
    rate = frames / seconds
    times = fbank.starts(seconds, CLIPS)
    first = [min(math.ceil(rate * start), frames - 1) for start in times]
    last = [min(math.ceil(rate * (start + fbank.CLIP)), frames) - 1 for start in times]
    return np.stack([first, last], axis=1)


def crops(frame: np.ndarray) -> np.ndarray:
    """A picture (3, H, W) uint8, its shorter side shrunk to IMAGE, from end to end of the longer:
    (CROPS, 3, IMAGE, IMAGE) float32, normalised."""
    height, width = frame.shape[1:]
    short = min(height, width)
    tall, wide = (math.floor(side / short * IMAGE) for side in (height, width))
    pixels = bilinear(height, tall) @ (frame / np.float32(255)) @ bilinear(width, wide).T
    pixels = (pixels - MEAN) / STD
    spare = max(tall, wide) - IMAGE
    axis = 1 if height > width else 2
    offsets = (0, math.ceil(spare / 2), spare)
    return np.stack([pixels.take(range(start, start + IMAGE), axis) for start in offsets])


def bilinear(inputs: int, outputs: int) -> np.ndarray:
    """The matrix (outputs, inputs) of torch's bilinear interpolation without antialiasing."""
    scale = np.float32(inputs) / np.float32(outputs)
    positions = scale * (np.arange(outputs, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    positions = np.clip(positions, 0, inputs - 1)[:, None]
    return np.maximum(1 - np.abs(positions - np.arange(inputs, dtype=np.float32)), 0)
