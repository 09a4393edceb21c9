"""Datasets made of what a user has: public test sets as folders of items (see `dataset`).

Nothing is downloaded but tables that are named by their place on the hub, nothing is passed on, and
what is missing is told.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlx_sam_audio.errors import SAMAudioError

from . import audiosep, dcase, demo, musdb, sam_audio_bench
from .collection import Collection, Report, make


class Kind(NamedTuple):
    """help: in one line. sources: what they are, in their order. read: of them, and of options."""

    help: str
    sources: tuple[str, ...]
    read: Callable[..., Collection]


TABLE = "its parquet file, a folder of them, or their place on the hub"
KINDS = {
    "demo": Kind("synthetic mixtures that the demo model never saw", (), demo.read),
    "sam-audio-bench": Kind(
        "SAM-Audio-Bench (facebook/sam-audio-bench)",
        (TABLE, "a folder of its videos"),
        sam_audio_bench.read,
    ),
    "sam-audio-musdb": Kind(
        "the excerpts of instr-pro (facebook/sam-audio-musdb18hq-test), with the true stems",
        (f"{TABLE}, or a csv", "the folder of MUSDB18-HQ"),
        musdb.read_windows,
    ),
    "musdb": Kind(
        "whole tracks of MUSDB18-HQ's test set: vocals, drums, bass",
        ("the folder of MUSDB18-HQ",),
        musdb.read,
    ),
    "audiosep": Kind(
        "a set of AudioSep's benchmark: AudioCaps, AudioSet, Clotho, ESC-50, MUSIC, VGGSound+",
        ("its csv", "the folder of its sounds"),
        audiosep.read,
    ),
    "dcase": Kind(
        "the validation set of DCASE 2024, task 9",
        ("lass_synthetic_validation.csv", "the folder lass_validation"),
        dcase.read,
    ),
}


def prepare(
    kind: str,
    sources: Sequence[str | Path],
    out: str | Path,
    progress: Callable[[Sequence], Iterable] = iter,
    **options,
) -> Report:
    """Write the dataset of that kind into the folder `out`: what is there already is kept, so that
    a stopped one goes on; an item is there whole or not at all.

    options: demo's items, seconds and seed; sam-audio-bench's settings, the only ones wanted; no
    other kind looks at them. progress: such as tqdm. Raises SAMAudioError where nothing can be
    made; single items that cannot are in the report, and in missing.json.
    """
    if kind not in KINDS:
        raise SAMAudioError(f"there is no dataset {kind!r}: choose from {', '.join(KINDS)}")
    wanted, read = KINDS[kind].sources, KINDS[kind].read
    if len(sources) != len(wanted):
        these = " and ".join(wanted) or "no source"
        raise SAMAudioError(f"{kind} is made of {these}: {len(sources)} sources were given")
    known = inspect.signature(read).parameters
    options = {name: value for name, value in options.items() if name in known}
    return make(read(*sources, **options), Path(out), progress)
