"""Is what we read what FFmpeg decodes? Makes sounds of all formats and compares every sample.

python -m benchmarks.decoding            (needs ffmpeg and sox)
"""

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np

from benchmarks import report
from mlx_sam_audio import SAMAudioError, SAMAudioWarning
from mlx_sam_audio.media import audio, containers

SECONDS = 7.3
NOISE = f"anoisesrc=d={SECONDS}:a=0.3:seed=1:r=44100"
TONES = f"aevalsrc='0.4*sin(2*PI*t*(300+40*t))|0.3*sin(2*PI*440*t)':s=44100:d={SECONDS}"
PICTURES = f"testsrc=size=64x48:rate=25:d={SECONDS}"
# name: what ffmpeg is told after its input
ENCODED = {
    "s16.wav": "",
    "u8.wav": "-c:a pcm_u8",
    "s24.wav": "-c:a pcm_s24le",
    "s32.wav": "-c:a pcm_s32le",
    "f32.wav": "-c:a pcm_f32le",
    "f64.wav": "-c:a pcm_f64le",
    "alaw.wav": "-c:a pcm_alaw",
    "mulaw.wav": "-c:a pcm_mulaw",
    "adpcm-ms.wav": "-c:a adpcm_ms",
    "adpcm-ima.wav": "-c:a adpcm_ima_wav",
    "mp3-in.wav": "-c:a libmp3lame -f wav",
    "mono-8k.wav": "-ac 1 -ar 8000",
    "six-channels.wav": "-ac 6",
    "rf64.wav": "-rf64 always",
    "w64.w64": "",
    "s16.flac": "",
    "s24.flac": "-sample_fmt s32",
    "96k.flac": "-ar 96000",
    "flac.oga": "-c:a flac -f ogg",
    "s16.aiff": "",
    "s24.aiff": "-c:a pcm_s24be",
    "sowt.aif": "-c:a pcm_s16le -f aiff",
    "s16.au": "",
    "alac.m4a": "-c:a alac",
    "alac.caf": "-c:a alac",
    "pcm.caf": "-c:a pcm_s16be",
    "cbr-128.mp3": "-b:a 128k",
    "cbr-320.mp3": "-b:a 320k",
    "cbr-64-22k.mp3": "-b:a 64k -ar 22050",
    "cbr-48k.mp3": "-b:a 192k -ar 48000",
    "vbr.mp3": "-q:a 4",
    "vbr-mono.mp3": "-q:a 6 -ac 1",
    "cbr-no-xing.mp3": "-b:a 128k -write_xing 0",
    "cbr-no-xing-24k.mp3": "-b:a 32k -ar 24000 -ac 1 -write_xing 0",
    "vbr-no-xing.mp3": "-q:a 4 -write_xing 0",
    "no-id3.mp3": "-b:a 96k -id3v2_version 0 -write_id3v1 1",
    "a.mp2": "-b:a 192k",
    "mono.mp2": "-ac 1 -b:a 64k",
    "vorbis.ogg": "-c:a libvorbis",
    "vorbis-mono.ogg": "-c:a libvorbis -ac 1 -ar 22050",
    "opus.opus": "-c:a libopus",
    "opus-mono.ogg": "-c:a libopus -ac 1 -b:a 24k",
    "speex.spx": "-c:a libspeex -ar 16000 -ac 1",
    "aac.m4a": "-c:a aac",
    "aac-mono-16k.m4a": "-c:a aac -ac 1 -ar 16000",
    "aac-faststart.m4a": "-c:a aac -movflags faststart",
    "aac-fragments.mp4": "-c:a aac -movflags frag_keyframe+empty_moov",
    "adts.aac": "-c:a aac -f adts",
    "ac3.ac3": "",
    "ac3.mp4": "-c:a ac3",
    "opus.webm": "-c:a libopus",
    "vorbis.webm": "-c:a libvorbis",
    "opus.mp4": "-c:a libopus -strict -2",
    "flac.mkv": "-c:a flac",
    "pcm.mov": "-c:a pcm_s16le",
    "wma.wma": "-c:a wmav2",
    "mp3.avi": "-c:a libmp3lame",
    "aac.ts": "-c:a aac -f mpegts",
    "aac.flv": "-c:a aac",
    "wavpack.wv": "",
    "tta.tta": "",
}
FILMS = {
    "film.mp4": "-c:v libx264 -c:a aac",
    "film.mov": "-c:v libx264 -c:a pcm_s24le",
    "film.mkv": "-c:v libx264 -c:a libvorbis",
    "film.webm": "-c:v libvpx -c:a libopus",
    "film-late.mp4": "-c:v libx264 -c:a aac",  # its sound starts later
}
PIPED = {  # written to a pipe: headers without a length
    "piped.wav": "-f wav",
    "piped.flac": "-f flac",
    "piped.mp3": "-f mp3",
    "piped.ogg": "-c:a libvorbis -f ogg",
    "piped.opus": "-c:a libopus -f ogg",
    "piped.mkv": "-c:a flac -f matroska",
    "piped.webm": "-c:a libopus -f webm",
    "piped.mp4": "-c:a aac -f mp4 -movflags frag_keyframe+empty_moov",
}
CUT = ("s16.wav", "f32.wav", "s16.flac", "s16.aiff", "vbr.mp3", "cbr-128.mp3", "cbr-no-xing.mp3",
       "vorbis.ogg", "opus.opus", "aac-faststart.m4a", "adts.aac", "flac.mkv", "opus.webm",
       "aac-fragments.mp4", "a.mp2", "pcm.caf")  # fmt: skip
JOINED = ("cbr-128.mp3", "vbr.mp3", "vbr-no-xing.mp3", "vorbis.ogg", "opus.opus", "a.mp2",
          "adts.aac")  # fmt: skip


def ffmpeg(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = ["ffmpeg", "-v", "error", "-y", "-bitexact", *arguments]
    return subprocess.run(command, check=True, **options)


def make(folder: Path) -> list[Path]:
    """The files, in `folder`."""
    sounds = ["-f", "lavfi", "-i", TONES]
    for name, options in ENCODED.items():
        ffmpeg(*sounds, *options.split(), str(folder / name))
    for name, options in FILMS.items():
        late = ["-itsoffset", "0.5"] if "late" in name else []
        ffmpeg("-f", "lavfi", "-i", PICTURES, *late, *sounds, *options.split(), str(folder / name))
    for name, options in PIPED.items():
        with open(folder / name, "wb") as file:
            ffmpeg(*sounds, *options.split(), "-", stdout=file)
    subprocess.run(["sox", "-n", folder / "sox.wav", *"synth 3 sine 300-900".split()], check=True)
    for name in ("sox.mp3", "sox.flac", "sox.ogg", "sox.aiff", "sox.gsm", "sox.voc", "sox.8svx"):
        if name.endswith((".mp3", ".flac", ".ogg", ".aiff")):
            subprocess.run(["sox", folder / "sox.wav", folder / name], check=True)
    with open(folder / "sox-piped.wav", "wb") as file:
        subprocess.run(["sox", folder / "sox.wav", "-t", "wav", "-"], stdout=file, check=True)
    for name in CUT:
        data = (folder / name).read_bytes()
        (folder / f"cut-{name}").write_bytes(data[: int(0.6 * len(data))])
    for name in JOINED:
        data = (folder / name).read_bytes()
        (folder / f"joined-{name}").write_bytes(data + data)
    return sorted(path for path in folder.iterdir() if path.is_file())


def by_ffmpeg(path: Path, program: str) -> tuple[np.ndarray, int]:
    """The channels' mean (T,), and its rate."""
    with containers.opened(path) as container:
        stream = container.streams.audio[0]
        rate, channels = stream.rate, stream.channels
    options = "-map 0:a:0 -c:a pcm_f32le -f f32le -".split()
    command = [program, "-v", "quiet", "-i", path, *options]
    raw = subprocess.run(command, capture_output=True, check=False).stdout
    return np.frombuffer(raw, np.float32).reshape(-1, channels).mean(axis=1), rate


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--keep", help="a folder for the files, instead of a temporary one")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="the program that decodes")
    options = parser.parse_args(arguments)
    folder = Path(options.keep or tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    files = make(folder)
    rows = []
    report.head("file", "ffmpeg's samples", "ours", "largest difference", "said")
    for path in files:
        theirs, rate = by_ffmpeg(path, options.ffmpeg)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", SAMAudioWarning)
            try:
                ours = audio.read(path, rate)
            except SAMAudioError as error:
                report.line(path.name, len(theirs), "refused", "", error)
                rows.append({"file": path.name, "theirs": len(theirs), "said": str(error)})
                continue
        same = len(ours) == len(theirs)
        shared = min(len(ours), len(theirs))
        difference = float(np.abs(ours[:shared] - theirs[:shared]).max(initial=0.0))
        notes = "; ".join(str(each.message).replace(str(folder), "") for each in said)
        mark = "" if same and difference < 1e-3 else " **"
        report.line(path.name, len(theirs), len(ours), f"{difference:.1g}{mark}", notes)
        rows.append({"file": path.name, "theirs": len(theirs), "ours": len(ours)})
        rows[-1] |= {"difference": difference, "said": notes}
    equal = sum(row["theirs"] == row.get("ours") for row in rows)
    worst = max(row.get("difference", 0.0) for row in rows)
    print(f"\n{len(files)} files, {equal} of as many samples, largest difference {worst:.2g}")
    report.write(options, rows)
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    report.run(main)
