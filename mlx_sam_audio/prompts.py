"""Spans: the times at which the wanted sound does ("+") or does not ("-") occur."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import mlx.core as mx
import numpy as np

from .errors import SAMAudioError, shown
from .models.sam_audio import VocabularyConfig

NULL, PADDING = 0, 3  # rows of the anchor embedding
SIGNS = {"+": 1, "-": 2}
LAST = 1e12  # seconds; no recording is as long
CLOCK = re.compile(r"[+-][\d:.]+-[\d:.]+")


@dataclass(frozen=True)
class Span:
    """`sign` is "+" (the sound is here) or "-" (it is not); start and end in seconds."""

    sign: str
    start: float
    end: float

    def __post_init__(self):
        if not isinstance(self.sign, str) or self.sign not in SIGNS:
            raise SAMAudioError(f'a span has the sign "+" or "-", not {shown(self.sign)}')
        for time in (self.start, self.end):
            if isinstance(time, bool) or not isinstance(time, Real) or not -LAST < time < LAST:
                raise SAMAudioError(f"a span starts and ends at finite seconds, not {shown(time)}")
        if not 0 <= self.start < self.end:
            raise SAMAudioError(f"span {self} must start at 0 or later and before its end")

    def __str__(self) -> str:
        """What `parse` reads, exactly."""
        start, end = (repr(float(x)).removesuffix(".0") for x in (self.start, self.end))
        return f"{self.sign}{start}:{end}"

    @classmethod
    def parse(cls, text: str) -> "Span":
        """A span from "+6.3:7.0", in seconds, or "+1:23-1:31", "-5-9.5", "+1:02:03-1:02:04.5"."""
        if not isinstance(text, str):
            raise SAMAudioError(f"a span is read from a string, not {type(text).__name__}")
        text = text.strip()
        try:
            if CLOCK.fullmatch(text):
                start, end = map(seconds, text[1:].split("-"))
            else:
                start, end = map(float, text[1:].split(":"))
            return cls(text[:1], start, end)
        except ValueError:
            raise SAMAudioError(
                f'cannot read the span {text!r}: write "+start:end" or "-start:end" in seconds, or '
                '"+1:23-1:31"'
            ) from None


def seconds(text: str) -> float:
    """Of a time as a clock shows it: "83.5", "1:23.5", "0:01:23.5". Raises ValueError."""
    *before, last = text.split(":")
    if len(before) > 2 or any(not part.isdecimal() for part in before):
        raise ValueError(text)
    parts = [*map(int, before), float(last)]
    if any(part >= 60 for part in parts[1:]):
        raise ValueError(text)
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def clock(start: float, end: float) -> str:
    """A stretch of time for people: "45-46 s", or "1:23-1:31.5" where it goes beyond a minute."""
    if end < 60:
        return f"{start:g}-{end:g} s"
    return f"{shown_time(start)}-{shown_time(end)}"


def shown_time(time: float) -> str:
    """As a clock shows it, to milliseconds: "1:23.5"."""
    milliseconds = round(time * 1000)
    minutes, left = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{left // 1000:02}.{left % 1000:03}".rstrip("0").rstrip(".")
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


def check_prompt(description: str, spans: Sequence[Span], video: object = None) -> tuple[Span, ...]:
    if not isinstance(description, str):
        raise SAMAudioError(f"a description is a string, not {type(description).__name__}")
    if any("\ud800" <= c <= "\udfff" for c in description):
        raise SAMAudioError(f"the description is no Unicode text: {description}")
    try:
        spans = tuple(spans)
    except TypeError:
        raise SAMAudioError(f"spans are a list of Span values, not {shown(spans)}") from None
    for span in spans:
        if not isinstance(span, Span):
            raise SAMAudioError(f"spans are Span values, not {span!r}")
    if not description.strip() and not spans and video is None:
        raise SAMAudioError(
            "the prompt is empty: describe the sound, give a span where it occurs, or show it in a "
            "video"
        )
    return spans


def check_words(description: str, vocabulary: VocabularyConfig | None) -> None:
    """Refuse words on which a small model was never trained: it would return noise."""
    if vocabulary is None or not description.strip():
        return
    words = re.findall(r"\w+", description.lower()) or [description]
    unknown = [word for word in words if word not in vocabulary.words]
    if unknown:
        told = ", ".join(map(shown, unknown[:5])) + (" and more" if unknown[5:] else "")
        raise SAMAudioError(
            f"this model does not know {told}: it knows {', '.join(vocabulary.sounds)}"
        )


def anchors(spans: Sequence[Span], samples: int, sample_rate: int, hop: int) -> mx.array:
    """The anchor of each frame, (N,) int32: null, "+" or "-". Later spans win.

    A span covers frames ceil(start * rate / hop) up to ceil(end * rate / hop), as in
    sam_audio/processor.py. Raises SAMAudioError for a span outside the audio or between frames.
    """
    frames = np.full(math.ceil(samples / hop), NULL, dtype=np.int32)
    for span in spans:
        # one sample of grace: an end written as the rounded duration is not outside
        if span.end * sample_rate > samples + 1:
            raise SAMAudioError(
                f"span {span} ends after the audio, which lasts {samples / sample_rate:.3f} s"
            )
        first = math.ceil(span.start * sample_rate / hop)
        last = math.ceil(span.end * sample_rate / hop)
        if first >= min(last, len(frames)):
            raise SAMAudioError(
                f"span {span} lies between two frames, which are {1000 * hop / sample_rate:g} ms "
                "apart: make it longer"
            )
        frames[first:last] = SIGNS[span.sign]
    return mx.array(frames)
