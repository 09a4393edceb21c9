"""Video files, through PyAV: their frames (3, H, W) out of them, new sound into them."""

import contextlib
import heapq
import io
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import SAMAudioError, note
from ..files import existing, whole, writable
from ..kinds import RATES
from . import encoding
from .containers import container, opened, reading
from .encoding import encoded, writing

WRITTEN = {  # suffix: container, codec of the sound
    ".mp4": ("mp4", "aac"),
    ".m4v": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s24le"),
    ".mkv": ("matroska", "flac"),
}
PIECE = 2**15  # samples of sound encoded at a time
ANY_TAG = "\0\0\0\0"  # the muxer chooses
OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "timecode"}
OF_THE_SOUND = {"language", "title", "name", "handler_name"}
OF_THE_CAMERA = {  # under these names in any mp4, too
    "location": "com.apple.quicktime.location.ISO6709",
    "make": "com.apple.quicktime.make",
    "model": "com.apple.quicktime.model",
}
LANGUAGES = dict(  # that .mov knows by another name
    code.split(":")
    for code in "deu:ger nld:dut ell:gre isl:ice zho:chi fas:per sqi:alb mkd:mac hye:arm kat:geo "
    "mya:bur msa:may cym:wel eus:baq swe:sve fre:fra cze:ces rum:ron slo:slk".split()
)
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def pictures(container, path: str | Path):
    """The container's video stream; the cover of an album is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise SAMAudioError(f"{path} holds video in a format that cannot be decoded")
            return stream
    raise SAMAudioError(f"{path} has no video")


def beginning(container) -> float:
    """Seconds on the file's clock at which it starts; some count an encoder's delay backwards."""
    return max(container.start_time or 0, 0) / 1e6


def sound_start(path: str | Path) -> float:
    """Seconds from a file's beginning to its sound's first sample; 0 if it has no sound."""
    with opened(path) as container:
        heard = [stream for stream in container.streams.audio[:1] if stream.codec_context]
        # decoded, since decoders drop the samples of the encoder's delay
        for frame in container.decode(heard) if heard else ():
            if frame.time is not None:
                return frame.time - beginning(container)
    return 0.0


def decoded(path: str | Path, start: float = 0.0) -> Iterator:
    """Seconds from the file's beginning, ascending, and frames, not yet converted.

    start: where to begin; the first frame is then an earlier one.
    """
    import av

    empty = True
    with opened(path) as container:
        stream, zero = pictures(container, path), beginning(container)
        single = container.format.name.endswith("_pipe")  # what follows a picture is none of it
        stream.thread_type = "SLICE" if single else "AUTO"
        if start > 0:
            with contextlib.suppress(av.FFmpegError):  # then from the beginning
                container.seek(int((zero + start) * 1e6))
        for frame in container.decode(stream):
            if frame.time is not None:
                empty = False
                yield frame.time - zero, frame
            if single:
                break
    if empty:
        raise SAMAudioError(f"{path} holds no frames")


def rgb(frame) -> np.ndarray:
    """A decoded frame upright, in red, green and blue, uint8 (3, H, W). Wider ranges are scaled to
    8 bits, without tone mapping."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)).transpose(2, 0, 1)


def frame_at(path: str | Path, seconds: float) -> tuple[float, np.ndarray]:
    """The frame that is shown at that time, (3, H, W), and since when."""
    shown = None
    for time, frame in decoded(path, start=seconds):
        if shown is not None and time > seconds:
            break
        shown = time, frame
    if shown is None:
        raise SAMAudioError(f"{path} shows nothing at {seconds:g} s")
    return shown[0], rgb(shown[1])


def duration(path: str | Path) -> float:
    """Seconds, as the file's header says."""
    with opened(path) as container:
        pictures(container, path)
        return (container.duration or 0) / 1e6


def check(path: str | Path, sample_rate: int) -> None:
    """Raises SAMAudioError where a video of that name holds no sound of that rate."""
    _, codec = WRITTEN[Path(path).suffix.lower()]
    encoding.check(Path(path), encoding.RATES.get(codec, RATES), sample_rate)


def remux(source: str | Path, sound: np.ndarray, sample_rate: int, output: str | Path) -> None:
    """Write the video `source` with `sound` in place of its own, the first of them.

    sound: samples (T,) or, in stereo, (2, T), the first one heard where the sound of `source`
    starts. AAC in .mp4 and .m4v, else lossless, 24 bits; turned down where it passes full scale.
    All else of `source` is copied as it is; a note names what `output` cannot hold. Nothing has the
    name of `output` before all is written. Raises SAMAudioError.
    """
    output = writable(output, WRITTEN)
    check(output, sample_rate)
    if output.exists() and output.samefile(existing(source)):
        raise SAMAudioError(f"{output} is the video itself: choose another name")
    peak = float(np.abs(sound).max(initial=0))
    with whole(output) as (part,):
        channels = len(np.atleast_2d(sound))
        notices = write(source, [sound], sample_rate, part, output, peak, channels)
    for notice in notices:
        note(notice)


def write(
    source: str | Path,
    sound: Iterable[np.ndarray],
    sample_rate: int,
    part: Path,
    output: Path,
    peak: float,
    channels: int = 1,
) -> list[str]:
    """The same into `part`, for a file that will be called `output`. sound: consecutive pieces
    (t,), or (2, t) of two channels. peak: the highest of all that is turned down alike. Returns
    what the user must know."""
    silence, loudest = round(sound_start(source) * sample_rate), max(peak, 1.0)
    kind, _ = WRITTEN[output.suffix.lower()]
    with opened(source) as old, writing(output), open(part, "wb") as file:
        texts, zero = described(old, kind), beginning(old)
        with container(file, "w", format=kind, container_options=options(kind, texts)) as new:
            new.metadata.update(texts)
            copy_chapters(old, new, zero)
            voice, copies, lacking = tracks(source, old, new, sample_rate, output, channels)
            blocks = (block / np.float32(loudest) for block in sound)
            voices = encoded(voice, delayed(blocks, silence, channels))
            # in the order of time, or the muxer would have to keep what comes too early
            packets = moved(old, copies, zero, source)
            for packet in heapq.merge(packets, voices, key=lambda p: p.dts * p.time_base):
                new.mux(packet)
    notices = []
    if lacking:
        what = f"cannot be copied to {output.suffix}"
        notices.append(f"{output} lacks what {what}: {', '.join(lacking)}")
    if peak > 1:
        notices.append(
            f"{output} was turned down by {20 * math.log10(peak):.1f} dB: {output.suffix[1:]} "
            "cannot hold what is above full scale"
        )
    return notices


def tracks(source: str | Path, old, new, sample_rate: int, output: Path, channels: int) -> tuple:
    """What `new` is made of: a stream for the sound, copies of the other streams by their numbers,
    and names of those that have none."""
    from av.stream import Stream

    kind, codec = WRITTEN[output.suffix.lower()]
    shown, heard = pictures(old, source), next(iter(old.streams.audio), None)
    copies, lacking = {}, []
    for stream in old.streams:
        if stream is heard:
            voice = spoken(new, codec, sample_rate, channels, heard)
        elif type(stream) is Stream:  # PyAV before 17 crashes if asked what it is
            lacking.append("an unknown track")
        elif is_made_again(old, stream):
            continue
        elif (copy := copied(source, stream, new, kind)) is not None:
            copies[stream.index] = copy
        elif stream is shown:
            more = "" if kind == "matroska" else ": try .mkv"
            what = f"{stream.codec_context.name} video"
            raise SAMAudioError(f"{output.suffix} cannot hold {what}{more}")
        else:
            lacking.append(title(stream))
    if heard is None:
        voice = spoken(new, codec, sample_rate, channels, heard)
    return voice, copies, lacking


def described(old, kind: str) -> dict[str, str]:
    """Title, artist, date, place and so on of a file, as a container of that kind names them."""
    texts = {key: text for key, text in old.metadata.items() if key.lower() not in OF_THE_FILE}
    if kind != "matroska":
        for key in list(texts):
            if key.lower() in OF_THE_CAMERA:
                texts.setdefault(OF_THE_CAMERA[key.lower()], texts.pop(key))
    if "creation_time" in texts:  # FFmpeg 9 joins what is said twice
        texts["creation_time"] = texts["creation_time"].split(";")[0]
    return texts


def options(kind: str, texts: dict[str, str]) -> dict[str, str]:
    """What the muxer leaves out if nobody asks."""
    if kind == "matroska":
        return {}
    # names of other than the usual things; Dolby Vision and 360 degrees
    tags = {"movflags": "use_metadata_tags"} if any("." in key for key in texts) else {}
    return {"strict": "unofficial", **tags}


def knows_chapters(container) -> bool:
    """PyAV does from 16.0 on, which also copies attachments; those before crash."""
    return hasattr(container, "chapters")


def copy_chapters(old, new, seconds: float) -> None:
    """So much earlier."""
    if knows_chapters(old):
        chapters = old.chapters()
        for chapter in chapters:
            ticks = round(seconds / chapter["time_base"])
            chapter.update({key: max(chapter[key] - ticks, 0) for key in ("start", "end")})
        new.set_chapters(chapters)


def spoken(new, codec: str, sample_rate: int, channels: int, heard):
    """A stream for the new sound, in place of `heard`, with as many bits or more."""
    given = heard is not None and heard.codec_context and heard.codec_context.bit_rate
    voice = encoding.voice(new, codec, sample_rate, channels, given or 0)
    if heard is not None:
        name(voice, {k: text for k, text in heard.metadata.items() if k.lower() in OF_THE_SOUND})
        voice.disposition = heard.disposition.value
    return voice


def name(stream, texts: dict[str, str]) -> None:
    stream.metadata.update(texts)
    if "name" in texts:  # what mov calls a title
        stream.metadata.setdefault("title", stream.metadata.pop("name"))
    if stream.container.format.name == "mov" and stream.language in LANGUAGES:
        stream.metadata["language"] = LANGUAGES[stream.language]


def is_made_again(old, stream) -> bool:
    """Whether the muxer makes a track itself, of metadata or of chapters."""
    if stream.type != "data":
        return False
    chapters = knows_chapters(old) and old.chapters() and stream.name == "bin_data"
    return "timecode" in stream.metadata or bool(chapters)


def is_cover(stream) -> bool:
    from av.stream import Disposition

    return stream.disposition.value & Disposition.attached_pic.value != 0


def copied(source: str | Path, stream, new, kind: str):
    """A stream of `new` for the packets of `stream` as they are; None where it cannot hold them."""
    if stream.codec_context is None and not knows_chapters(stream.container):
        return None
    if is_cover(stream) and kind == "matroska":
        return attached(source, stream, new)
    if is_cover(stream) and (kind == "mov" or "movflags" in new.container_options):
        return None
    for tag in tags(stream, kind):
        if accepted(stream, kind, tag):
            return twin(stream, new, tag)
    return None


def attached(source: str | Path, stream, new):
    """A cover picture, as Matroska holds one."""
    cover = COVERS.get(stream.codec_context.name)
    if cover is None or not knows_chapters(new):
        return None
    with opened(source) as again:
        packet = next(again.demux(again.streams[stream.index]))
        return new.add_attachment(*cover, bytes(packet)) if packet.size else None


def tags(stream, kind: str) -> list[str]:
    """Names for the codec of a stream, the best first."""
    with contextlib.suppress(UnicodeDecodeError, AttributeError):
        tag = stream.codec_context.codec_tag
        if stream.codec_context.name == "hevc" and kind != "matroska":
            # hev1, the muxer's own choice, is refused by Apple's players
            return [tag if tag in ("hvc1", "hev1", "dvh1") else "hvc1"]
        if {"mov", "matroska"} & set(stream.container.format.name.split(",")):
            return [tag, ANY_TAG]
    return [ANY_TAG]


def accepted(stream, kind: str, tag: str) -> bool:
    """Whether a container takes a stream, which only the writing of its header tells."""
    import av

    trial = container(io.BytesIO(), "w", format=kind)
    try:
        twin(stream, trial, tag)
        trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    finally:
        with contextlib.suppress(ValueError, av.FFmpegError):
            trial.close()  # some miss the packets
    return True


def twin(stream, new, tag: str):
    """A stream like `stream`."""
    copy = new.add_stream_from_template(stream, opaque=True)
    name(copy, stream.metadata)
    copy.disposition = stream.disposition.value
    if stream.codec_context is not None:
        copy.codec_tag = tag
    if stream.type == "video" and stream.sample_aspect_ratio:
        copy.sample_aspect_ratio = stream.sample_aspect_ratio
    return copy


def title(stream) -> str:
    """What a person may know a stream by."""
    if is_cover(stream):
        return "cover picture"
    name, language = getattr(stream, "name", None), stream.language
    words = stream.type, name, language, stream.metadata.get("title")
    return " ".join(word for word in words if word not in (None, "und"))


def moved(old, copies: dict, seconds: float, path: str | Path) -> Iterator:
    """Packets for the streams `copies` of the streams by number, so much earlier, and later where
    time stamps are missing or go backwards."""
    ends = {}
    with reading(path):
        streams = [old.streams[i] for i, copy in copies.items() if copy.type != "attachment"]
        for packet in old.demux(streams):
            if not packet.size:  # the mark of the end
                continue
            index, ticks = packet.stream.index, round(seconds / packet.time_base)
            start = packet.dts - ticks if packet.dts is not None else ends.get(index, 0)
            packet.dts = max(start, ends.get(index, start))
            packet.pts = None if packet.pts is None else max(packet.pts - ticks, packet.dts)
            packet.stream = copies[index]
            # Matroska takes two at a time, such as lines of subtitles
            ends[index] = packet.dts + (packet.stream.container.format.name != "matroska")
            yield packet


def delayed(blocks: Iterable[np.ndarray], samples: int, channels: int) -> Iterator[np.ndarray]:
    """The sound in short pieces (channels, t) after so many samples of silence, or without its
    first ones. Silence, since players do not agree on sound that starts after the pictures."""
    silence = np.zeros((channels, max(samples, 0)), np.float32)
    for block in itertools.chain([silence], map(np.atleast_2d, blocks)):
        block, samples = block[:, max(-samples, 0) :], min(samples + block.shape[1], 0)
        yield from (block[:, i : i + PIECE] for i in range(0, block.shape[1], PIECE))
