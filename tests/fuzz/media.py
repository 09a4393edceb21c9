"""Damaged and lying sounds, videos and masks: read as FFmpeg reads them, or refused."""

import contextlib
import io
import os
import shutil
import warnings
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import numpy as np
import soundfile

from mlx_sam_audio import SAMAudioError, SAMAudioWarning, separate
from mlx_sam_audio.media import audio, video_files

from . import mutate
from .models import base
from .pool import Different

FAST = ["--method", "euler", "--steps", "1"]
TITLES = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
LIBSNDFILE = {
    **{"good.wav": "PCM_16", "float.wav": "FLOAT", "alaw.wav": "ALAW", "ima.wav": "IMA_ADPCM"},
    **{"byte.wav": "PCM_U8", "good.aiff": "PCM_24", "good.flac": "PCM_16", "good.rf64": "PCM_16"},
    **{"good.ogg": "VORBIS", "sndfile.opus.ogg": "OPUS", "sndfile.mp3": "MPEG_LAYER_III"},
    **{"good.caf": "PCM_16", "good.au": "PCM_16", "good.w64": "FLOAT"},
}
VARIABLE = {"flags": "+qscale", "global_quality": "472"}
FFMPEG: dict[str, tuple[str, dict, dict]] = {  # codec, options of it and of the file
    "constant.mp3": ("libmp3lame", {}, {"write_xing": "0"}),
    "variable.mp3": ("libmp3lame", VARIABLE, {}),
    "headless.mp3": ("libmp3lame", VARIABLE, {"write_xing": "0"}),
    "good.mp2": ("mp2", {}, {}),
    "good.opus": ("libopus", {}, {}),
    "good.m4a": ("aac", {}, {}),
    "lossless.m4a": ("alac", {}, {}),
    "good.webm": ("libopus", {}, {}),
    "good.mp4": ("aac", {}, {}),
    "fragments.mp4": ("aac", {}, {"movflags": "frag_keyframe+empty_moov"}),
    "good.mov": ("pcm_s16le", {}, {}),
    "good.mkv": ("flac", {}, {}),
    "good.avi": ("pcm_s16le", {}, {}),
}
SOUNDS, VIDEOS = [*LIBSNDFILE, *FFMPEG], [*FFMPEG][-5:]
MASKS = {"mask.png": "gray", "mask16.png": "gray16be", "colour.png": "rgb24"}


def prepare() -> None:
    """Small files of every kind, to change copies of, in the folder "media"."""
    import matplotlib.font_manager  # noqa: F401  fills its cache, or a command would say so

    base("media").mkdir()
    for name, subtype in LIBSNDFILE.items():
        rate = 48_000 if subtype == "OPUS" else 44_100
        soundfile.write(base("media", name), sweep(rate), rate, subtype)
    for name, (codec, of_codec, of_file) in FFMPEG.items():
        rate = 48_000 if codec == "libopus" else 44_100
        with av.open(str(base("media", name)), "w", options=of_file) as file:
            voice = file.add_stream(codec, rate=rate, layout="stereo", options=of_codec)
            packets = shown(file) if name in VIDEOS else []
            wave = av.AudioFrame.from_ndarray(sweep(rate).T.copy(), "fltp", "stereo")
            wave.rate, wave.time_base, wave.pts = rate, Fraction(1, rate), 0
            kind = voice.codec_context.format or "s16"
            for part in av.AudioResampler(kind, "stereo", rate).resample(wave):
                packets += voice.encode(part)
            file.mux(packets + voice.encode(None))
    for name, mode in MASKS.items():
        image = np.zeros((48, 64, 3)[: 3 if mode == "rgb24" else 2], "u2" if "16" in mode else "u1")
        image[8:24, 16:40] = np.iinfo(image.dtype).max
        with av.open(str(base("media", name)), "w", format="image2") as file:
            stream = file.add_stream("png", pix_fmt=mode)
            stream.width, stream.height = 64, 48
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, mode)) + stream.encode(None))


def sweep(rate: int) -> np.ndarray:
    """Two seconds (T, 2) that never repeat themselves."""
    time = np.arange(2 * rate) / rate
    wave = 0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time) * (1 + np.sin(9 * time)) / 2
    return np.stack([wave, wave / 2], axis=1).astype(np.float32)


def shown(file) -> list:
    """Packets of two seconds of ever lighter pictures with a white corner."""
    stream, packets = file.add_stream("libx264", rate=10), []
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.time_base = Fraction(1, 10)
    for i in range(20):
        image = np.full((48, 64, 3), 10 * i, np.uint8)
        image[:16, :20] = 255
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts, frame.time_base = i, Fraction(1, 10)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


DRAWN = {  # part: the files that are changed, and what is done with them
    "sound": (SOUNDS, ["read"]),
    "command": (SOUNDS, ["", "--subtract", "--window 0.5 --overlap 0.1"]),
    "video": (VIDEOS, ["frames", "one", "mp4", "mov", "mkv", "pick"]),
    "mask": ([*MASKS, "good.mp4"], ["preview", "separate"]),
}


def draw(part: str, rng: Random) -> str:
    names, acts = DRAWN[part]
    mutation = rng.choice(mutate.MEDIA).__name__
    return f"{rng.choice(names)} {mutation} {rng.randrange(10**6)} {rng.choice(acts)}"


def changed(recipe: str) -> tuple[Path, list[str]]:
    """A changed file, and the rest of the recipe."""
    name, mutation, seed, *rest = recipe.split()
    path = Path(name).absolute()
    shutil.copy(base("media", name), path)
    mutate.apply(path, mutation, seed)
    return path, rest


def check_sound(recipe: str) -> None:
    path, _ = changed(recipe)
    theirs, rate = ffmpeg(path)
    with noted() as notes:
        ours = audio.read(path, rate)
    whole = audio.read(base("media", path.name), rate)  # what was changed may be of no matter
    if not notes and not same(ours, theirs) and not same(ours, whole):
        raise Different(f"{len(ours) / rate:.3f} s, not the {len(theirs) / rate:.3f} s of FFmpeg")


def same(one: np.ndarray, two: np.ndarray) -> bool:
    return len(one) == len(two) and np.abs(one - two).max(initial=0.0) < 1e-3


@contextlib.contextmanager
def noted():
    """Our warnings in the body."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SAMAudioWarning)
        yield notes


def decoded(path: Path, kind: str):
    """Frames that FFmpeg decodes of the first stream of a kind, broken packets left out."""
    nothing = av.FFmpegError, IndexError, AttributeError  # no such stream, no decoder for it
    with contextlib.suppress(*nothing), av.open(str(path), **TITLES) as container:
        for packet in container.demux(getattr(container.streams, kind)[0]):
            with contextlib.suppress(av.FFmpegError):
                yield from packet.decode()


def ffmpeg(path: Path) -> tuple[np.ndarray, int]:
    """The sound that FFmpeg decodes, channels averaged, at the rate of its beginning."""
    pieces, rate, resampler = [np.zeros(0, np.float32)], 16_000, None
    with contextlib.suppress(av.FFmpegError):  # a rate that is none
        for frame in decoded(path, "audio"):
            if resampler is None:
                resampler = av.AudioResampler(format="fltp", rate=frame.rate)
                rate = frame.rate
            pieces += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
    return np.concatenate(pieces), rate


def command(*arguments: str) -> str:
    """What the command printed on stderr, where all went well; its refusal as SAMAudioError."""
    before, said = set(os.listdir()), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = separate.main(list(arguments))
        except SystemExit as stop:  # argparse's
            status = stop.code
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("note: ")]
    made = set(os.listdir()) - before
    if left := [name for name in made if name.startswith(".")]:
        raise Different(f"{left} are left")
    if status == 0 and not lines:
        return said.getvalue()
    if status != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        raise AssertionError(f"exit status {status}, not one line: {said.getvalue()[-300:]}")
    if made:
        raise Different(f"refused, but made {sorted(made)}: {lines[0]}")
    raise SAMAudioError(lines[0])


def check_command(recipe: str) -> None:
    path, more = changed(recipe)
    said = command("-m", "demo", "-i", path.name, "-d", "beep", "-o", "o.wav", *FAST, *more)
    stems = [soundfile.read(name, dtype="float32")[0] for name in ("o.wav", "o.residual.wav")]
    if not np.isfinite(stems).all():
        raise Different("the output is not finite")
    theirs, rate = ffmpeg(path)
    if "note: " not in said and abs(len(stems[0]) / 16_000 - len(theirs) / rate) > 1e-3:
        raise Different(f"{len(stems[0]) / 16_000} s, FFmpeg decodes {len(theirs) / rate:.3f} s")


def check_video(recipe: str) -> None:
    path, (act,) = changed(recipe)
    count, ours = sum(frame.time is not None for frame in decoded(path, "video")), None
    with noted() as notes:
        if act == "frames":
            video_files.duration(path)
            video_files.sound_start(path)
            ours = sum(1 for _ in video_files.decoded(path))
        elif act == "one":
            video_files.frame_at(path, 0.3)
        elif act == "pick":
            command("-i", path.name, "--pick", "p.png")
        else:
            video_files.remux(path, sweep(16_000)[:, 0], 16_000, f"o.{act}")
            ours = sum(1 for _ in decoded(Path(f"o.{act}"), "video"))
    if ours not in (None, count) and not notes:
        raise Different(f"{ours} frames, FFmpeg decodes {count}")


def check_mask(recipe: str) -> None:
    path, (act,) = changed(recipe)
    shared = ["-i", str(base("media", "good.mp4")), "--mask", path.name]
    if act == "preview":
        command(*shared, "--preview", "p.png")
        return
    command("-m", str(base("model", "tiny")), *shared, "-o", "o.wav", *FAST)
    if not np.isfinite(soundfile.read("o.wav")[0]).all():
        raise Different("the output is not finite")
