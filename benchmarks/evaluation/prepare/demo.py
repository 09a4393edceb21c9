"""Synthetic mixtures that the demo model never saw, with all that can be known of them."""

from functools import partial
from pathlib import Path

from benchmarks import mixtures
from mlx_sam_audio.demo.sounds import SAMPLE_RATE
from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.media import sound_files

from .collection import Collection, Prompt, Wanted, named

VERSION = "1"


def read(items: int = 96, seconds: float = 2.0, seed: int = 0) -> Collection:
    """seconds: of each. The same seed makes the same ones, byte for byte."""
    if items < 1 or not seconds >= 0.5 or seed < 0:
        raise SAMAudioError(
            "the demo's items are 1 or more, of 0.5 seconds or more, and their seed is 0 or more"
        )
    drawn = mixtures.items(items, seed, seconds)
    wanted = [
        Wanted(
            id=named(f"{number:04d}", item.family),
            prompt=Prompt(
                description=item.phrase,
                group=f"{number:04d}",
                settings={"demo": "text"},
                spans=tuple((span.start, span.end) for span in item.spans),
                label=item.family,
                other=item.other,
                absent=item.absent,
                spans_tell=item.intermittent,
            ),
            fill=partial(fill, item),
            origin=repr((VERSION, seed, seconds, number)),
        )
        for number, item in enumerate(drawn)
    ]
    version = f"{VERSION}: {items} items of {seconds:g} s, seed {seed}"
    return Collection("demo", version, "MIT", "benchmarks/mixtures.py", SAMPLE_RATE, "mean", wanted)


def fill(item: mixtures.Item, folder: Path) -> tuple[float, dict]:
    for name in ("mixture", "target", "residual"):
        sound_files.write(folder / f"{name}.wav", getattr(item, name), SAMPLE_RATE)
    return len(item.mixture) / SAMPLE_RATE, {}
