"""Videos with new sound, and pictures of videos."""

import contextlib
import io
import os
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
from clips import RATE, av, beeps, clip, film, grey, turned

from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.errors import SAMAudioWarning
from mlx_sam_audio.media import audio, preview, video_files
from mlx_sam_audio.media.video import MaskedVideo, matched

OUTPUTS = ["out.mp4", "out.mov", "out.mkv"]
NEW = hasattr(av.container.InputContainer, "chapters")  # PyAV 16
TITLED = av.library_versions["libavformat"] >= (62, 12)  # tracks of mp4 and mov have titles


def packets(path, index=0) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = container.streams[index]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def heard(path) -> tuple[np.ndarray, float]:
    """The sound of a file, and when it starts."""
    return audio.read(path, RATE), video_files.sound_start(path)


def remux(source, wave, output) -> list[str]:
    """What the user is told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SAMAudioWarning)
        video_files.remux(source, wave, RATE, output)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("sound_start", [0.0, 0.4])
def test_new_sound_in_an_old_video(tmp_path, name, sound_start):
    source = clip(tmp_path / "a.mp4", sound=beeps(1, [0.5]), sound_start=sound_start)
    wave, zero = heard(source)
    assert remux(source, wave, tmp_path / name) == []
    after, start = heard(tmp_path / name)
    assert start == 0 and packets(tmp_path / name) == packets(source)
    silence = round(zero * RATE)
    assert np.abs(after[:silence]).max(initial=0) < 1e-3
    after = after[silence:]
    # the beep of 10 ms lies where it was: 0.5 s after the sound's start, to the sample
    beep = beeps(0.01, [0])
    found = [np.correlate(samples, beep, "valid").argmax() for samples in (wave, after)]
    assert found[0] == found[1]
    # the source's own header rounds its start to a millisecond
    assert zero + found[0] / RATE == pytest.approx(sound_start + 0.5, abs=1e-3)
    if name != "out.mp4":
        assert len(after) == len(wave) and np.abs(after - wave).max() < 1e-6
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", name}


def test_sound_in_pieces_and_a_turned_picture(tmp_path):
    source, wave = turned(clip(tmp_path / "a.mp4"), 90), beeps(1, [0.25, 0.75])
    for name in OUTPUTS:
        out = tmp_path / name
        assert video_files.write(source, np.split(wave, [5, 30_000]), RATE, out, out, 0.5) == []
        frame, _ = next(matched(MaskedVideo(out), np.zeros(1)))
        assert frame.shape == (3, 64, 48)
    assert np.abs(audio.read(out, RATE) - wave).max() < 1e-6


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("sound_start", [0.0, 0.4])
def test_new_sound_in_stereo(tmp_path, name, sound_start):
    source = clip(tmp_path / "a.mp4", sound=beeps(1, [0.5]), sound_start=sound_start)
    wave, out = np.stack([beeps(1, [0.25]), -beeps(1, [0.75]) / 2]), tmp_path / name
    silence = round(video_files.sound_start(source) * RATE)
    pieces = np.split(wave, [7, 40_000], axis=1)
    assert video_files.write(source, pieces, RATE, out, out, 0.5, channels=2) == []
    assert audio.channels(out) == 2 and packets(out) == packets(source)
    after = np.concatenate(list(audio.blocks(out, RATE, 2)), axis=1)
    assert np.abs(after[:, :silence]).max(initial=0) < 1e-3
    after = after[:, silence : silence + wave.shape[1]]
    assert np.abs(after - wave).max() < (0.05 if name == "out.mp4" else 1e-6)


@pytest.mark.parametrize("name, rate", [("out.mp4", 37_800), ("out.mkv", 700_000)])
def test_rates_that_the_sound_of_a_video_cannot_have(tmp_path, name, rate):
    source = clip(tmp_path / "a.mp4", 3)
    with pytest.raises(SAMAudioError, match=f"{name}: {name[4:]} holds sound of .* not {rate} Hz"):
        video_files.remux(source, beeps(0.1, [0]), rate, tmp_path / name)


@pytest.mark.parametrize("name", ["out.mov", "out.mkv"])
def test_target_and_residual_add_up(tmp_path, name):
    source, noise = clip(tmp_path / "a.mp4", count=3), np.random.default_rng(0)
    parts = [noise.uniform(-0.5, 0.5, 5000).astype(np.float32) for _ in range(2)]
    read = []
    for part in parts:
        assert remux(source, part, tmp_path / name) == []
        read.append(audio.read(tmp_path / name, RATE))
    assert np.abs(sum(read) - sum(parts)).max() <= 4 / 2**24


@pytest.mark.parametrize("name", OUTPUTS)
def test_sound_over_full_scale_is_turned_down(tmp_path, name):
    source, wave = clip(tmp_path / "a.mp4", count=3), 4 * beeps(0.5, [0.1])
    (notice,) = remux(source, wave, tmp_path / name)
    peak, kind = 20 * np.log10(np.abs(wave).max()), name.split(".")[1]
    assert notice.endswith(
        f"{name} was turned down by {peak:.1f} dB: {kind} cannot hold what is above full scale"
    )
    after = audio.read(tmp_path / name, RATE)[: len(wave)]
    tolerance = 0.05 if name == "out.mp4" else 1e-6
    assert np.abs(after - wave / np.abs(wave).max()).max() < tolerance


@pytest.mark.parametrize("given, wanted", [(64_000, 185_000), (288_000, 205_000)])
def test_aac_has_as_many_bits_as_the_input_or_more(tmp_path, given, wanted):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
    source = clip(tmp_path / "a.mp4", sound=noise, sound_rate=given)
    assert remux(source, noise, tmp_path / "out.mp4") == []
    size = sum(map(len, packets(tmp_path / "out.mp4", 1)))
    assert 8 * size > wanted


def test_what_aac_can_at_low_rates(tmp_path):
    source = clip(tmp_path / "a.mp4", count=3)
    video_files.remux(source, beeps(0.5, [0]), 16_000, tmp_path / "out.mp4")
    assert video_files.sound_start(tmp_path / "out.mp4") == 0


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("kind", ["film.mp4", "film.mkv"])
def test_titles_and_other_tracks_are_kept(tmp_path, name, kind):
    source, out = film(tmp_path / kind), tmp_path / name
    notices = remux(source, beeps(1, [0.5]), out)
    with av.open(str(source)) as old, av.open(str(out)) as new:
        texts = {key.lower(): text for key, text in new.metadata.items()}
        assert (texts["title"], texts["artist"]) == ("Holiday", "Ann")
        german = "ger" if name == "out.mov" else "deu"
        assert [stream.language for stream in new.streams.audio] == ["jpn", german]
        assert new.streams.video[0].language == "fra"
        other = new.streams.audio[1]
        assert packets(out, other.index) == packets(source, old.streams.audio[1].index)
        if TITLED or (kind, name) == ("film.mkv", "out.mkv"):
            assert "Commentary" in other.metadata.values()
            assert "Original" in new.streams.audio[0].metadata.values()
        (extra,) = (stream for stream in old.streams if stream.index == 3)
        kept = [s.index for s in new.streams if s.type == extra.type and s.name == extra.name]
        assert [packets(out, index) for index in kept] in ([], [packets(source, extra.index)])
        subtitle = extra.type == "subtitle"
        fits = name == "out.mkv" and (subtitle or NEW) or name == "out.mp4" and not subtitle
        assert len(kept) == fits
    assert len(notices) == (not fits)
    assert fits or ("subtitle srt spa" if subtitle else "cover picture") in notices[0]


@pytest.mark.skipif("libx265" not in av.codecs_available, reason="this PyAV writes no HEVC")
@pytest.mark.parametrize(
    "kind, given, kept",
    [("a.mov", "hvc1", "hvc1"), ("a.mp4", "hev1", "hev1"), ("a.mkv", None, "hvc1")],
)
def test_hevc_is_called_what_apple_plays(tmp_path, kind, given, kept):
    tag = {"codec_tag": given} if given else {}
    options = {"x265-params": "log-level=none"}
    source = clip(tmp_path / kind, 3, codec="libx265", pix_fmt="yuv420p", options=options, **tag)
    for name in OUTPUTS:
        assert remux(source, beeps(0.1, [0]), tmp_path / name) == []
        with av.open(str(tmp_path / name)) as new:
            tag = new.streams.video[0].codec_context.codec_tag
            assert name == "out.mkv" or tag == kept
        assert packets(tmp_path / name) == packets(source)


@pytest.mark.skipif(not NEW, reason="this PyAV knows no chapters")
@pytest.mark.parametrize("name", OUTPUTS)
def test_chapters(tmp_path, name):
    source, base = tmp_path / "a.mkv", Fraction(1, 1000)
    clip(tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as old, av.open(str(source), "w") as new:
        copy = new.add_stream_from_template(old.streams[0], opaque=True)
        chapters = [(1, 0, 400, "One"), (2, 400, 1000, "Two")]
        keys = "id", "start", "end", "metadata"
        rows = [dict(zip(keys, row, strict=True), time_base=base) for row in chapters]
        new.set_chapters([{**row, "metadata": {"title": row["metadata"]}} for row in rows])
        for packet in old.demux():
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    assert remux(source, beeps(1, [0]), tmp_path / name) == []
    with av.open(str(tmp_path / name)) as new:
        found = [
            (float(row["start"] * row["time_base"]), row["metadata"]["title"])
            for row in new.chapters()
        ]
    assert found == [(0, "One"), (0.4, "Two")]
    # and again, when they are a track of their own
    assert remux(tmp_path / name, beeps(1, [0]), tmp_path / "again.mp4") == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_time_stamps_and_the_shape_of_pixels_are_kept(tmp_path, name):
    moments = [0, 0.041, 0.3, 0.323, 0.331, 0.777, 0.9]
    source = clip(tmp_path / "a.mp4", 7, times=moments, sample_aspect_ratio=Fraction(4, 3))
    video_files.remux(source, beeps(1, [0]), RATE, tmp_path / name)
    times = [time for time, _ in video_files.decoded(tmp_path / name)]
    assert np.abs(np.array(times) - moments).max() < 1e-5
    with av.open(str(tmp_path / name)) as new:
        assert new.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


PLACE = {"com.apple.quicktime.location.ISO6709": "+37.1-122.2/"}


@pytest.mark.parametrize("given", [PLACE, {"location": "+37.1-122.2/"}])
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_place_a_camera_noted(tmp_path, given, name):
    source = tmp_path / "a.mov"
    options = {"movflags": "use_metadata_tags"} if given is PLACE else {}
    clip(tmp_path / "b.mp4", 3)
    with (
        av.open(str(tmp_path / "b.mp4")) as old,
        av.open(str(source), "w", container_options=options) as new,
    ):
        copy = new.add_stream_from_template(old.streams[0], opaque=True)
        new.metadata.update(given)
        for packet in old.demux():
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    assert remux(source, beeps(0.1, [0]), tmp_path / name) == []
    with av.open(str(tmp_path / name)) as new:
        assert "+37.1-122.2/" in new.metadata.values()


def test_titles_in_other_alphabets_than_utf8(tmp_path):
    source = film(tmp_path / "a.mp4")
    source.write_bytes(source.read_bytes().replace(b"Holiday", b"Caf\xe9 a\xff"))
    for name in OUTPUTS:
        remux(source, beeps(0.1, [0]), tmp_path / name)
        assert b"Caf\xe9 a\xff" in (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "http:a.mkv", "a:b/c.mov", "100%d.mp4", "n" * 236 + ".mp4", "\udcff.mp4"]
)
def test_any_name_will_do(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    clip("plain.mp4", 3)
    try:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        os.rename("plain.mp4", name)
    except OSError:
        pytest.skip("this system has no such names")
    os.rename(name, "plain.mp4")
    video_files.remux("plain.mp4", beeps(0.1, [0]), RATE, name)
    assert len(list(video_files.decoded(name))) == 3 and len(audio.read(name, RATE)) >= 4800


VIDEOS = {
    "a.avi": "mpeg4 mp3",
    "a.flv": "libx264 mp3",
    "a.wmv": "wmv2 wmav2",
    "a.ts": "libx264 aac",
    "a.mpg": "mpeg2video mp2",
    "a.vob": "mpeg2video ac3",
    "a.webm": "libvpx libopus",
    "a.3gp": "mpeg4 aac",
    "a.ogv": "libvpx libopus",
    "a.mxf": "mpeg2video pcm_s16le",
}


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_of_all_kinds(tmp_path, name):
    names = VIDEOS[name].split()
    if not set(names) <= av.codecs_available:
        pytest.skip(f"this PyAV lacks one of {names}")
    source, wave = tmp_path / name, beeps(1, [0.5])
    container = dict(zip([".wmv", ".vob"], ["asf", "vob"], strict=True)).get(source.suffix)
    with av.open(str(source), "w", format=container) as new:
        stream = new.add_stream(names[0], rate=25, width=64, height=48, pix_fmt="yuv420p")
        rate = 44_100 if name == "a.flv" else RATE
        voice = new.add_stream(names[1], rate=rate, layout="stereo", bit_rate=128_000)
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
        frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        new.mux(voice.encode(frame))
        new.mux(voice.encode(None))
    sound = audio.read(source, RATE)
    assert len(sound) == pytest.approx(RATE, abs=4000) and np.abs(sound).max() > 0.3
    if name == "a.wmv":  # FFmpeg writes it to no container of ours
        with pytest.raises(SAMAudioError, match=".mkv cannot hold wmv2 video$"):
            remux(source, wave, tmp_path / "out.mkv")
        return
    remux(source, wave, tmp_path / "out.mkv")
    before, after = (
        [video_files.rgb(frame) for _, frame in video_files.decoded(path)]
        for path in (source, tmp_path / "out.mkv")
    )
    assert len(before) == 25 and abs(grey(before[12]) - 12) < 2
    assert np.array_equal(before, after)


def test_files_that_open_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip("a.ts", sound=beeps(1, [0]))
    with open("img.png", "wb") as file:
        file.write(b"\x89PNG")
    texts = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile a.ts\n",
        "list.mp4": "ffconcat version 1.0\nfile a.ts\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "list.mpd": """<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>
            <AdaptationSet><Representation id="0"><BaseURL>a.ts</BaseURL></Representation>
            </AdaptationSet></Period></MPD>""",
    }
    for name, text in texts.items():
        with open(name, "w") as file:
            file.write(text)
        for read in (audio.read, video_files.frame_at):
            with pytest.raises(SAMAudioError, match=f"cannot read {name}"):
                read(name, RATE)
    for name in ("concat:a.ts", "file:a.ts", "a%d.ts"):
        with pytest.raises(SAMAudioError, match=f"there is no file {name}"):
            video_files.frame_at(name, 0)


def test_a_video_that_cannot_be_written(tmp_path):
    source = clip(tmp_path / "a.mkv", codec="libvpx", pix_fmt="yuv420p")
    wave = beeps(0.5, [0])
    for output, message in (
        (tmp_path / "out.avi", "must end in .mp4"),
        (source, "is the video itself"),
        (tmp_path / "out.mp4", "cannot hold .*vpx? ?.*video: try .mkv|cannot hold vp8 video"),
    ):
        with pytest.raises(SAMAudioError, match=message):
            video_files.remux(source, wave, RATE, output)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    source = clip(tmp_path / "a.mkv")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(SAMAudioError, match="cannot write .*out.mp4: No space left"):
        video_files.remux(source, beeps(0.5, [0]), RATE, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("room", [100, 20_000, 60_000])
def test_a_disk_that_is_full(tmp_path, monkeypatch, name, room):
    source = film(tmp_path / "a.mkv")

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(video_files, "open", Full, raising=False)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    with pytest.raises(SAMAudioError, match=f"cannot write .*{name}: No space left on device"):
        video_files.remux(source, noise, RATE, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def patched(path, name: bytes, offset: int, data: bytes):
    """Writes over what comes so many bytes behind a name in a file."""
    content = bytearray(path.read_bytes())
    at = content.index(name) + len(name) + offset
    content[at : at + len(data)] = data
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("matrix", [(0,) * 9, (2**31 - 1,) * 9, (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_turned_in_no_way(tmp_path, matrix):
    source = clip(tmp_path / "a.mp4", 3)
    patched(source, b"tkhd", 40, np.array(matrix, ">i4").tobytes())
    _, frame = video_files.frame_at(source, 0)
    assert frame.size == 3 * 48 * 64


@pytest.mark.parametrize("ticks", [0, 1, 2**31 - 1, 2**32 - 1])
def test_absurd_times(tmp_path, ticks):
    source = clip(tmp_path / "a.mp4", 3, codec="mpeg4", pix_fmt="yuv420p")
    patched(source, b"stts", 12, np.array(ticks, ">u4").tobytes())
    with contextlib.suppress(SAMAudioError):
        assert video_files.frame_at(source, 0.1)[1].shape == (3, 48, 64)
    with contextlib.suppress(SAMAudioError):
        preview.contact_sheet(source, tmp_path / "sheet.png", 1, 1)
    with contextlib.suppress(SAMAudioError):
        video_files.remux(source, beeps(0.1, [0]), RATE, tmp_path / "out.mp4")
        assert packets(tmp_path / "out.mp4") == packets(source)


def test_times_that_go_backwards_or_are_missing(tmp_path):
    source, out = clip(tmp_path / "a.mkv", 5, codec="mpeg4", pix_fmt="yuv420p"), tmp_path / "o.mp4"
    content = bytearray(source.read_bytes())
    last = content.rindex(b"\xa3")  # a block: its size, its track and its time in two bytes
    at = content.index(b"\x81", last) + 1
    content[at : at + 2] = (5).to_bytes(2, "big")
    source.write_bytes(content)
    assert remux(source, beeps(0.2, [0]), out) == []
    assert packets(out) == packets(source)


def test_a_header_that_promises_too_many_pixels(tmp_path):
    preview.contact_sheet(clip(tmp_path / "a.mp4", 3), tmp_path / "a.png", 1, 1)
    head = b"IHDR" + np.array([60_000, 60_000], ">u4").tobytes() + b"\x08\x06\0\0\0"
    data = head + zlib.crc32(head).to_bytes(4, "big")
    patched(tmp_path / "a.png", b"IHDR", -4, data)
    with pytest.raises(SAMAudioError, match="a.png"):
        video_files.frame_at(tmp_path / "a.png", 0)


def test_what_cameras_put_behind_a_picture(tmp_path):
    with av.open(str(tmp_path / "a.jpg"), "w", format="image2") as new:
        stream = new.add_stream("mjpeg", rate=1, width=64, height=48, pix_fmt="yuvj420p")
        new.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, "u1"), "rgb24")))
        new.mux(stream.encode(None))
    picture = (tmp_path / "a.jpg").read_bytes()
    for tail in (b"", b"MotionPhoto" * 99, picture, bytes(999)):
        (tmp_path / "a.jpg").write_bytes(picture + tail)
        (frame,) = video_files.decoded(tmp_path / "a.jpg")
        assert video_files.rgb(frame[1]).min() > 250


def test_pictures_for_people(tmp_path):
    path = clip(tmp_path / "a.mp4")
    preview.contact_sheet(path, tmp_path / "sheets" / "sheet.png")
    preview.preview(MaskedVideo(path, (30, 10, 50, 20)), tmp_path / "preview.png", 2, 1)
    for name in ("sheets/sheet.png", "preview.png"):
        time, image = video_files.frame_at(tmp_path / name, 0)
        assert image.shape[0] == 3 and min(image.shape[1:]) > 300
    (*_, first), (*_, last) = (video_files.frame_at(path, seconds) for seconds in (0.1, 0.9))
    assert (grey(first), grey(last)) == (2, 22)
