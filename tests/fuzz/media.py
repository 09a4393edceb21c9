"""Damaged and lying sounds, videos and masks: read as FFmpeg reads them, or refused."""

import contextlib
import io
import os
import shutil
import warnings
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random

import av
import numpy as np
import soundfile

from mlx_sam_audio import SAMAudioError, SAMAudioWarning, audio, separate, video_files

from . import mutate
from .pool import Different

RATE = 44_100
GAP = 2600  # samples by which decoders may differ at the ends: delays of encoders
TITLES = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
FAST = ["--method", "euler", "--steps", "1"]


def prepare(folder: Path) -> None:
    """Small files of every kind, to change copies of."""
    media = folder / "media"
    media.mkdir()
    time = np.arange(2 * RATE) / RATE
    wave = 0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time) * (1 + np.sin(9 * time)) / 2
    stereo = np.stack([wave, 0.5 * wave], axis=1).astype(np.float32)
    for name, subtype in LIBSNDFILE.items():
        soundfile.write(media / name, stereo, 48_000 if "opus" in name else RATE, subtype)
    mono = 0.75 * wave.astype(np.float32)
    for name, (codec, options) in FFMPEG.items():
        film(media / name, mono, codec, options, name in VIDEOS)
    for name, mode in (
        ("mask.png", "gray"),
        ("mask16.png", "gray16be"),
        ("maskcolour.png", "rgb24"),
    ):
        image = np.zeros(
            (48, 64) if "gray" in mode else (48, 64, 3), "u2" if "16" in mode else "u1"
        )
        image[8:24, 16:40] = 2**16 - 1 if "16" in mode else 255
        with av.open(str(media / name), "w", format="image2") as file:
            stream = file.add_stream("png", pix_fmt=mode)
            stream.width, stream.height = 64, 48
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, mode)))
            file.mux(stream.encode(None))


LIBSNDFILE = {
    **{"good.wav": "PCM_16", "float.wav": "FLOAT", "alaw.wav": "ALAW", "ima.wav": "IMA_ADPCM"},
    **{"byte.wav": "PCM_U8", "good.aiff": "PCM_24", "good.flac": "PCM_16", "good.rf64": "PCM_16"},
    **{"good.ogg": "VORBIS", "libsndfile.opus.ogg": "OPUS", "libsndfile.mp3": "MPEG_LAYER_III"},
    **{"good.caf": "PCM_16", "good.au": "PCM_16", "good.w64": "FLOAT"},
}
VARIABLE = {"flags": "+qscale", "global_quality": "472"}
FFMPEG: dict[str, tuple] = {
    "constant.mp3": ("libmp3lame", {"write_xing": "0"}),
    "variable.mp3": ("libmp3lame", VARIABLE),
    "headless.mp3": ("libmp3lame", VARIABLE | {"write_xing": "0"}),
    "good.mp2": ("mp2", {}),
    "good.opus": ("libopus", {}),
    "good.m4a": ("aac", {}),
    "lossless.m4a": ("alac", {}),
    "good.mp4": ("aac", {}),
    "fragments.mp4": ("aac", {"movflags": "frag_keyframe+empty_moov"}),
    "good.mov": ("pcm_s16le", {}),
    "good.mkv": ("flac", {}),
    "good.webm": ("libopus", {}),
    "good.avi": ("pcm_s16le", {}),
}
VIDEOS = ("good.mp4", "fragments.mp4", "good.mov", "good.mkv", "good.avi")
MASKS = ("mask.png", "mask16.png", "maskcolour.png", "good.mp4")


def film(path: Path, wave: np.ndarray, codec: str, options: dict, pictures: bool) -> None:
    """A file of one sound, and of two seconds of grey pictures with a white corner."""
    of_file = {key: options[key] for key in options if key in ("movflags", "write_xing")}
    with av.open(str(path), "w", options=of_file) as file:
        rate = 48_000 if codec == "libopus" else RATE
        options = {key: options[key] for key in options if key not in of_file}
        voice = file.add_stream(codec, rate=rate, layout="mono", options=options)
        if pictures:
            seen = file.add_stream("libx264", rate=10)
            seen.width, seen.height, seen.pix_fmt = 64, 48, "yuv420p"
            seen.codec_context.time_base = Fraction(1, 10)
        for i in range(20 if pictures else 0):
            image = np.full((48, 64, 3), 10 * i, np.uint8)
            image[:16, :20] = 255
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(seen.encode(frame))
        if pictures:
            file.mux(seen.encode(None))
        frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
        frame.rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        kind = voice.codec_context.format or "s16"
        for part in av.AudioResampler(kind, "mono", rate).resample(frame):
            file.mux(voice.encode(part))
        file.mux(voice.encode(None))


@cache
def files(kind: str) -> list[Path]:
    folder = Path(os.environ["FUZZ_FOLDER"]) / "media"
    names = dict(sound=(*LIBSNDFILE, *FFMPEG), video=VIDEOS, mask=MASKS)[kind]
    return [folder / name for name in names]


def draw(kind: str, rng: Random) -> str:
    return (
        f"{rng.choice(files(kind)).name} {rng.choice(mutate.SOUND).__name__} {rng.randrange(10**6)}"
    )


def changed(recipe: str) -> Path:
    name, mutation, seed, *_ = recipe.split()
    path = Path.cwd() / name
    shutil.copy(files("sound")[0].with_name(name), path)
    mutate.apply(path, mutation, seed)
    return path


def draw_sound(rng: Random) -> str:
    return draw("sound", rng)


def check_sound(recipe: str) -> None:
    if recipe == "warm":
        return
    path = changed(recipe)
    theirs, rate = ffmpeg(path)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        ours = audio.read(path, rate)
    if not any(issubclass(note.category, SAMAudioWarning) for note in notes):
        same_sound(ours, theirs, rate)


def ffmpeg(path: Path) -> tuple[np.ndarray, int]:
    """What FFmpeg decodes, channels averaged, and its rate; packets that are broken are left out,
    as its command does."""
    pieces, rate = [np.zeros(0, np.float32)], 16_000
    nothing = av.FFmpegError, IndexError, AttributeError  # no sound, no decoder
    with contextlib.suppress(*nothing), av.open(str(path), **TITLES) as container:
        stream = container.streams.audio[0]
        rate = stream.rate or rate
        resampler = av.AudioResampler(format="fltp", rate=rate)
        for packet in container.demux(stream):
            with contextlib.suppress(av.FFmpegError):
                for frame in packet.decode():
                    parts = resampler.resample(frame)
                    pieces += [part.to_ndarray().mean(axis=0) for part in parts]
    return np.concatenate(pieces), rate


def same_sound(ours: np.ndarray, theirs: np.ndarray, rate: int) -> None:
    """Raises Different where more than a moment of the sound is another."""
    if abs(len(ours) - len(theirs)) > GAP:
        raise Different(f"{len(ours)} samples, FFmpeg decodes {len(theirs)}")
    size = 2 ** int(np.ceil(np.log2(len(ours) + len(theirs) + 1)))
    spectra = [np.fft.rfft(np.clip(np.nan_to_num(wave), -9, 9), size) for wave in (ours, theirs)]
    likeness = np.fft.irfft(spectra[0] * spectra[1].conj())
    shift = int(np.argmax(np.concatenate([likeness[-GAP:], likeness[:GAP]]))) - GAP
    ours, theirs = ours[max(shift, 0) :], theirs[max(-shift, 0) :]
    count = min(len(ours), len(theirs))
    wrong = np.abs(ours[:count] - theirs[:count]) > 0.02 + 0.1 * np.abs(theirs[:count])
    if not wrong.sum() < max(GAP, 0.01 * count):
        raise Different(f"{wrong.sum() / rate:.2f} s of {count / rate:.2f} s are another sound")


def command(*arguments: str, main=separate.main) -> str:
    """What a command printed to stderr, where all went well; its refusal as SAMAudioError."""
    before, out, err = set(os.listdir()), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(arguments))
        except SystemExit as stop:  # argparse
            status = stop.code
    said = err.getvalue()
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(("solving", "note: "))]
    made = set(os.listdir()) - before
    if left := [name for name in made if name.startswith(".")]:
        raise Different(f"{left} are left")
    if status == 0 and not errors:
        return said
    if status == 2 and len(errors) == 1 and errors[0].startswith("error: "):
        if made:
            raise Different(f"refused, but made {sorted(made)}: {errors[0]}")
        raise SAMAudioError(errors[0])
    raise AssertionError(f"exit status {status}, not one line: {said[-300:]}")


def draw_command(rng: Random) -> str:
    more = rng.choice(["", "", " --subtract", " --window 0.5 --overlap 0.1"])
    return draw("sound", rng) + more


def check_command(recipe: str) -> None:
    if recipe == "warm":
        return
    path = changed(recipe)
    more = recipe.split()[3:]
    said = command("-m", "demo", "-i", path.name, "-d", "beep", "-o", "o.wav", *FAST, *more)
    target, rate = soundfile.read("o.wav", dtype="float32")
    residual, _ = soundfile.read("o.residual.wav", dtype="float32")
    if not np.isfinite(target).all() or not np.isfinite(residual).all():
        raise Different("the output is not finite")
    if "note: " in said:
        return
    theirs, their_rate = ffmpeg(path)
    if abs(len(target) - len(theirs) * rate / their_rate) > GAP:
        raise Different(
            f"{len(target) / rate:.2f} s, FFmpeg decodes {len(theirs) / their_rate:.2f} s"
        )


def draw_video(rng: Random) -> str:
    return draw("video", rng) + " " + rng.choice(["frames", "one", "mp4", "mov", "mkv", "pick"])


def check_video(recipe: str) -> None:
    if recipe == "warm":
        return
    path, act = changed(recipe), recipe.split()[-1]
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        if act == "frames":
            video_files.duration(path)
            video_files.sound_start(path)
            ours = sum(1 for _ in video_files.decoded(path))
            if not notes and ours != frames(path):
                raise Different(f"{ours} frames, FFmpeg decodes {frames(path)}")
        elif act == "one":
            video_files.frame_at(path, 0.3)
        elif act == "pick":
            command("-i", path.name, "--pick", "p.png")
        else:
            video_files.remux(path, np.zeros(2 * RATE, np.float32), RATE, f"o.{act}")
            if not notes and frames(Path(f"o.{act}")) < frames(path):
                raise Different(f"{frames(Path(f'o.{act}'))} frames of {frames(path)} were copied")


def frames(path: Path) -> int:
    """How many pictures FFmpeg decodes."""
    count = 0
    with contextlib.suppress(av.FFmpegError, IndexError), av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            with contextlib.suppress(av.FFmpegError):
                count += sum(frame.time is not None for frame in packet.decode())
    return count


def draw_mask(rng: Random) -> str:
    return draw("mask", rng) + " " + rng.choice(["preview", "separate", "separate"])


def check_mask(recipe: str) -> None:
    if recipe == "warm":
        return
    path = changed(recipe)
    film = files("video")[0]
    if recipe.endswith("preview"):
        command("-i", str(film), "--mask", path.name, "--preview", "p.png")
        return
    tiny = str(film.parents[1] / "model" / "tiny")
    command("-m", tiny, "-i", str(film), "--mask", path.name, "-o", "o.wav", *FAST)
    if not np.isfinite(soundfile.read("o.wav")[0]).all():
        raise Different("the output is not finite")
