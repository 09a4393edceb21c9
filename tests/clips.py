"""Clips that PyAV makes, for tests."""

from fractions import Fraction

import av
import numpy as np

RATE = 48_000


def clip(
    path,
    count=25,
    rate=25,
    times=None,
    size=(64, 48),
    codec="libx264",
    pix_fmt="yuv444p",
    sound=None,
    sound_start=0.0,
    sound_rate=64_000,
    pictures=True,
    **header,
):
    """A clip whose frame i is of the grey 8 i, and brighter in its upper left corner.

    header: other attributes of the video stream.
    """
    with av.open(str(path), "w") as container:
        if pictures:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            if codec == "libx264":
                stream.options = {"qp": "0" if "10" not in pix_fmt else "4", "bf": "2"}
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.options = {**stream.options, **header.pop("options", {})}
            for name, value in header.items():
                setattr(stream, name, value)
        if sound is not None:
            voice = container.add_stream("aac", rate=RATE, layout="mono", bit_rate=sound_rate)
        for i in range(count if pictures else 0):
            image = np.full((size[1], size[0], 3), 8 * i, np.uint8)
            image[: size[1] // 3, : size[0] // 3] = 250
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = round(1000 * (i / rate if times is None else times[i]))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if pictures:
            container.mux(stream.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
            frame.rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = round(sound_start * RATE)
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


SUBTITLES = """1
00:00:00,100 --> 00:00:00,500
Hello
"""


def film(path):
    """A film in French with titles, two sounds and, in mp4, a cover, in mkv, subtitles."""
    with av.open(str(path), "w") as new:
        new.metadata.update(title="Holiday", artist="Ann")
        shown = new.add_stream("libx264", rate=25, options={"bf": "0"})
        shown.width, shown.height, shown.pix_fmt = 64, 48, "yuv420p"
        shown.metadata["language"] = "fra"
        sounds = [new.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        sounds[0].metadata.update(language="jpn", title="Original")
        sounds[1].metadata.update(language="deu", title="Commentary")
        text, cover = path.with_suffix(".srt"), None
        text.write_text(SUBTITLES)
        with av.open(str(text)) as old:
            if path.suffix == ".mkv":
                lines = new.add_stream_from_template(old.streams.subtitles[0], opaque=True)
                lines.metadata["language"] = "spa"
            else:
                cover = new.add_stream("png")
                cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
                cover.disposition = 1 << 10  # attached picture
            for stream, i in [(shown, i) for i in range(25)] + [(cover, 0)] * bool(cover):
                size = (stream.height, stream.width, 3)
                frame = av.VideoFrame.from_ndarray(np.full(size, 8 * i, np.uint8), "rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                new.mux(stream.encode(frame))
            for stream in (shown, cover) if cover else (shown,):
                new.mux(stream.encode(None))
            for stream, pitch in zip(sounds, (440, 880), strict=True):
                wave = np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE).astype(np.float32) / 2
                frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
                frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
                new.mux(stream.encode(frame))
                new.mux(stream.encode(None))
            if cover is None:
                for packet in old.demux():
                    if packet.size:
                        packet.stream = lines
                        new.mux(packet)
    text.unlink()
    return path


def turned(path, degrees):
    """Writes how a player must turn the pictures, clockwise, into the track's header (mp4)."""
    turn = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (value * 2**16 for value in turn)
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 2**30], ">i4").tobytes()
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = matrix
    path.write_bytes(data)
    return path


def grey(frame) -> int:
    """The number of the clip's frame, read from its lower right corner."""
    return round(frame[:, -8:, -8:].mean() / 8)


def beeps(seconds, at) -> np.ndarray:
    wave = np.zeros(int(seconds * RATE), np.float32)
    for second in at:
        first = int(second * RATE)
        wave[first : first + 480] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(480) / RATE)
    return wave
