"""MUSDB18-HQ's test set: whole tracks, or the excerpts of SAM-Audio's instr-pro.

Layout as in sigsep-mus-db: test/ARTIST - TITLE/{mixture,vocals,drums,bass,other}.wav. The prompts
are the names of the stems, as in facebookresearch/sam-audio (eval/dataset/musdb.py).
"""

from functools import partial
from pathlib import Path

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.media import sound_files

from . import tables
from .collection import Collection, Prompt, Wanted, named
from .sounds import add, cut, exact, folder, inside, length, place, seconds

SAMPLE_RATE = 44_100
STEMS = ("vocals", "drums", "bass", "other")
WINDOW = ("id", "start_time", "end_time", "description")
PROMPTS = STEMS[:3]  # nobody would say "other"
LICENCE = "academic use only, each track under its own licence"
SOURCE = "https://zenodo.org/records/3338373"


def tracks(root: str | Path) -> Path:
    """The folder of the test set's tracks."""
    root = folder(root)
    return root / "test" if (root / "test").is_dir() else root


def read(root: str | Path) -> Collection:
    """Each track three times: vocals, drums, bass."""
    root = tracks(root)
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    if not names:
        raise SAMAudioError(f"{root} holds no folders of tracks")
    items = [
        Wanted(
            id=named(name, stem),
            prompt=Prompt(stem, name, {"musdb": "text"}, label=stem),
            fill=partial(whole_track, root / name, stem),
            origin=repr((name, stem)),
        )
        for name in names
        for stem in PROMPTS
    ]
    version = f"HQ, {len(names)} tracks"
    return Collection("musdb", version, LICENCE, SOURCE, SAMPLE_RATE, "mean", items)


def whole_track(track: Path, stem: str, into: Path) -> tuple[float, dict]:
    """Mixture and target are links, or copies where links are impossible; the residual is the sum
    of the other stems."""
    mixture, target = track / "mixture.wav", track / f"{stem}.wav"
    others = [track / f"{other}.wav" for other in STEMS if other != stem]
    add(others, into / "residual.wav")
    seconds = length(mixture, target, into / "residual.wav")
    place(mixture, into / "mixture")
    place(target, into / "target")
    return seconds, {}


def read_windows(source: str | Path, root: str | Path) -> Collection:
    """source: a table of tracks, seconds and words."""
    table = tables.read(source, WINDOW)
    root = tracks(root)
    items = []
    for row in table.rows:
        track, start, end, words = (row[name] for name in WINDOW)
        items.append(
            Wanted(
                id=named(track, start, words),
                prompt=Prompt(words, track, {"instr-pro": "text"}, label=words),
                fill=partial(window, root, row),
                origin=repr((track, start, end, words)),
            )
        )
    return Collection(
        name="sam-audio-musdb",
        version=table.version,
        licence=LICENCE,
        source=f"facebook/sam-audio-musdb18hq-test, {SOURCE}",
        metric_rate=SAMPLE_RATE,
        aggregate="mean",
        items=items,
    )


def window(root: Path, row: dict, into: Path) -> tuple[float, dict]:
    """The residual is what is left of the mixture; words that name no stem have no target."""
    track, stem = inside(root, row["id"]), row["description"].strip().lower()
    start, end = seconds(row["start_time"]), seconds(row["end_time"])
    names = {"mixture": "mixture", **({"target": stem} if stem in STEMS else {})}
    with exact():
        cuts = {name: cut(track / f"{file}.wav", start, end) for name, file in names.items()}
    kinds = {(wave.shape, rate) for wave, rate in cuts.values()}
    if len(kinds) > 1:
        raise SAMAudioError(f"{track} holds a mixture and {stem} of several lengths or rates")
    for name, (wave, rate) in cuts.items():
        sound_files.write(into / f"{name}.wav", wave, rate)
    return wave.shape[-1] / rate, {}
