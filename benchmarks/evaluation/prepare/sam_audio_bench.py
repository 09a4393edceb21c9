"""SAM-Audio-Bench: Meta's table, and videos that the user has.

Names of files, subsets, and how a mask is laid over a video as in facebookresearch/sam-audio
(eval/dataset). The sound is what the reference hears, as long as the cut, before any resampling.
"""

import io
import math
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from mlx_sam_audio.errors import SAMAudioError, note
from mlx_sam_audio.media import containers, encoding, sound_files
from mlx_sam_audio.media.frames import spread
from mlx_sam_audio.media.video_files import decoded, rgb

from . import tables
from .collection import Collection, Prompt, Wanted, named
from .sounds import cut, folder, inside, seconds

COLUMNS = ("source_dataset", "video_id", "start_offset", "end_offset", "description", "spans")
COLUMNS += ("paper_eval_sets",)
SUBSETS = {  # by the names of the reference's settings
    **{"others": "sfx", "speech-clean": "speech", "spk": "speaker"},
    **{"music-clean": "music", "instr": "instr-wild"},
}
KINDS = {  # the end of a setting's name, and its prompt: by sight, the words are given too
    "text-only": ("", "text"),
    "text+span": ("-span", "text+span"),
    "span-only": ("-span-only", "span"),
    "visual-only": ("-visual", "text+visual"),
}
SUFFIXES = (".mp4", ".mkv", ".webm")  # the reference knows the first
TICK = 1e-4  # seconds by which time stamps may be rounded
CLOCK = 90_000  # ticks of a clip's second


def read(source: str | Path, videos: str | Path, settings: tuple[str, ...] = ()) -> Collection:
    """settings: the only ones that are wanted; all of them unless given."""
    table, root = tables.read(source, COLUMNS, ("mask_bytes",)), folder(videos)
    tags = {tag for row in table.rows for tag in row["paper_eval_sets"] or ()}
    named_by = {tag: setting(tag) for tag in tags}
    there = sorted({name for name, _ in filter(None, named_by.values())})
    strange = sorted(set(settings) - set(there))
    if strange:
        raise SAMAudioError(f"{source} has no setting {strange[0]!r}: it has {', '.join(there)}")
    if unknown := sorted(tag for tag in tags if named_by[tag] is None):
        note(f"{source} has sets of no known kind, which are left out: {', '.join(unknown)}")
    items = []
    for row in table.rows:
        kinds = dict(filter(None, (named_by[tag] for tag in row["paper_eval_sets"] or ())))
        kinds = {name: kinds[name] for name in sorted(settings or kinds) if name in kinds}
        if kinds:
            items.append(wanted(root, row, kinds))
    return Collection(
        name="sam-audio-bench",
        version=table.version,
        licence="CC BY-NC 4.0; each video as its owner says",
        source="facebook/sam-audio-bench",
        metric_rate=None,
        aggregate="mean",
        items=items,
    )


def setting(tag: str) -> tuple[str, str] | None:
    """The name and kind of prompt of "others-50:text-only", "spk-onscreen:visual-only", ...: those
    of the paper have the reference's names, the whole sets end in -full."""
    subset, _, kind = tag.partition(":")
    if kind not in KINDS:
        return None
    (end, prompt), name = KINDS[kind], subset.removesuffix("-50")
    if name.endswith("-onscreen") == (kind == "visual-only"):
        name = SUBSETS.get(name.removesuffix("-onscreen"), name)
    return f"{name}{end}{'' if subset.endswith('-50') else '-full'}", prompt


def wanted(root: Path, row: dict, kinds: dict[str, str]) -> Wanted:
    dataset, video, start, _, description, spans, _ = told = [row[key] for key in COLUMNS]
    prompt = Prompt(
        description=description,
        group=f"{dataset}/{video}",
        settings=kinds,
        spans=tuple((float(first), float(last)) for first, last in spans or ()),
    )
    id, origin = named(dataset, video, start, description), repr((told, kinds))
    return Wanted(id, prompt, partial(fill, root, row, kinds), origin)


def fill(root: Path, row: dict, kinds: dict[str, str], into: Path) -> tuple[float, dict]:
    start, end = seconds(row["start_offset"]), seconds(row["end_offset"])
    path, is_cut = found(root, row["source_dataset"], row["video_id"], start, end)
    if is_cut:
        start, end = 0.0, math.inf
    wave, rate = cut(path, start, end)
    sound_files.write(into / "mixture.wav", wave, rate)
    lacks = {}
    visual = [name for name, kind in kinds.items() if kind == "text+visual"]
    if visual:
        try:
            frames, *size = clip(path, start, end, into / "clip.mp4")
            mask = masklet(row.get("mask_bytes"), frames, *size)
            np.savez_compressed(into / "mask.npz", mask=mask)
        except SAMAudioError as error:
            (into / "clip.mp4").unlink(missing_ok=True)
            lacks = dict.fromkeys(visual, str(error))
    return wave.shape[-1] / rate, lacks


def found(root: Path, dataset: str, video: str, start: float, end: float) -> tuple[Path, bool]:
    """The file of a row, and whether it is cut already. Raises SAMAudioError."""
    for place in (inside(root, dataset), root):
        for name, is_cut in names(video, start, end):
            for suffix in SUFFIXES:
                path = inside(place, f"{name}{suffix}")
                if path.is_file():
                    return path, is_cut
    raise SAMAudioError(f"there is no {video}.mp4 in {root / dataset}, cut or whole")


def names(video: str, start: float, end: float) -> Iterator[tuple[str, bool]]:
    """In the reference's order: the whole video, and cuts named by milliseconds and seconds."""
    first, last = int(start * 1000), int(end * 1000)
    yield video, False
    yield f"{video}_{first}_{last}", True
    yield f"{video}_{int(start)}_{int(end)}", True
    yield f"{video}.{first:08d}_{last:08d}", True


def clip(path: Path, start: float, end: float, target: Path) -> tuple[int, int, int]:
    """Write the frames that are shown from `start` to before `end`, upright, in red, green and
    blue, which leaves no doubt about colours. Returns how many, their height and width."""
    count, stream = 0, None
    with (
        encoding.writing(target),
        open(target, "wb") as file,
        containers.container(file, "w", format="mp4") as new,
    ):
        for time, frame in shown(path, start, end):
            image = np.ascontiguousarray(rgb(frame).transpose(1, 2, 0))
            if stream is None:
                stream, (height, width) = pictures(new, image), image.shape[:2]
            for packet in stream.encode(picture(image, time)):
                new.mux(packet)
            count += 1
        if stream is None:
            raise SAMAudioError(f"{path} shows nothing from {start:g} s on")
        for packet in stream.encode(None):
            new.mux(packet)
    return count, height, width


def shown(path: Path, start: float, end: float) -> Iterator[tuple[float, object]]:
    """Seconds from `start` on, and frames, of which the first may have come earlier."""
    held = None
    for time, frame in decoded(path, start):
        if time >= end - TICK:
            break
        if time <= start + TICK:
            held = frame
            continue
        if held is not None:
            yield 0.0, held
            held = None
        yield time - start, frame
    if held is not None:
        yield 0.0, held


def pictures(new, image: np.ndarray):
    """A stream for pictures like (H, W, 3), so good that nobody sees a difference. The number of
    threads is fixed, since x264's bytes depend on it."""
    options = {"crf": "10", "bf": "0", "x264-params": "threads=4"}
    stream = new.add_stream("libx264rgb", rate=25, options=options)  # times are in the frames
    stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "rgb24"
    stream.codec_context.time_base = Fraction(1, CLOCK)
    return stream


def picture(image: np.ndarray, time: float):
    import av

    frame = av.VideoFrame.from_ndarray(image, "rgb24")
    frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
    return frame


def masklet(data: bytes | None, frames: int, height: int, width: int) -> np.ndarray:
    """The mask (frames, H, W) of a table's npz: of each frame the one at the same part of the
    whole, of each pixel the nearest, as torch's interpolate takes them. Raises SAMAudioError."""
    if data is None:
        raise SAMAudioError("the table has no mask")
    try:
        with np.load(io.BytesIO(data)) as arrays:
            mask = arrays["video_masklet"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise SAMAudioError("the table's mask is damaged") from None
    if mask.ndim != 3 or not mask.any():
        raise SAMAudioError("the table's mask marks nothing")
    which, rows, columns = (
        spread(len(mask), frames),
        nearest(mask.shape[1], height),
        nearest(mask.shape[2], width),
    )
    return mask[which][:, rows][:, :, columns] != 0


def nearest(old: int, new: int) -> np.ndarray:
    """(new,) int: which of `old` pixels each one is."""
    places = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
    return np.minimum(places.astype(int), old - 1)
