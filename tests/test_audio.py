import os
import re
import struct
import warnings

import av
import numpy as np
import pytest
import soundfile

from mlx_sam_audio import SAMAudioError, SAMAudioWarning
from mlx_sam_audio.media import audio, sound_files

RATE = 44_100
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(4410) / RATE)).astype(np.float32)
# a tone that rises: no part of it is like another
RISING = 0.4 * np.sin(np.pi * 300 * np.linspace(1, 3, 2 * RATE) ** 2)
RISING = (RISING + np.random.default_rng(0).normal(0, 0.1, len(RISING))).astype(np.float32)
# name: container, codec, options of the muxer
ENCODED = {
    "vbr.mp3": ("mp3", "libmp3lame", {}),
    "no-xing.mp3": ("mp3", "libmp3lame", {"write_xing": "0"}),
    "a.mp2": ("mp2", "mp2", {}),
    "a.opus": ("ogg", "libopus", {}),
    "a.aac": ("adts", "aac", {}),
    "a.m4a": ("mp4", "aac", {"movflags": "faststart"}),
    "a.mkv": ("matroska", "aac", {}),
    "a.webm": ("webm", "libopus", {}),
}


def encode(path, container, codec, options, wave=RISING, layout="stereo"):
    """wave: of both channels (T,), or of each (channels, T)."""
    rate = 48_000 if codec == "libopus" else RATE
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
        waves = np.stack([wave, wave]) if wave.ndim == 1 else np.ascontiguousarray(wave)
        frame = av.AudioFrame.from_ndarray(waves, "fltp", layout)
        frame.rate = RATE
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            file.mux(stream.encode(part))
    return path


def made(path):
    if path.suffix == ".ogg":  # which PyAV cannot encode
        soundfile.write(path, RISING, RATE)
        return path
    return encode(path, *ENCODED[path.name])


def by_ffmpeg(path) -> np.ndarray:
    """What FFmpeg decodes, errors passed over as its command does; channels averaged, (T,)."""
    pieces = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp")
        packets = container.demux(stream)
        try:
            for packet in packets:
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                pieces += [part for frame in frames for part in resampler.resample(frame)]
        except av.FFmpegError:
            pass
    return np.concatenate([piece.to_ndarray() for piece in pieces], axis=1).mean(axis=0)


def read(path, rate=RATE) -> tuple[np.ndarray, list[str]]:
    """Samples and what was said about the file."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SAMAudioWarning)
        samples = audio.read(path, rate)
    return samples, [str(warning.message).partition(" ")[2] for warning in said]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff"])
def test_formats(tmp_path, name):
    soundfile.write(tmp_path / name, np.stack([TONE, -TONE / 2], axis=1), RATE)
    samples = audio.read(tmp_path / name, 48_000)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(4800, abs=150)  # FFmpeg drops the first block of vorbis
    assert np.abs(samples).max() == pytest.approx(0.125, rel=0.1)


@pytest.mark.parametrize(
    "subtype",
    "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM".split(),
)
def test_every_kind_of_wav(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", RISING, RATE, subtype=subtype)
    samples, said = read(tmp_path / "a.wav")
    reference = by_ffmpeg(tmp_path / "a.wav")
    assert said == [] and len(samples) == len(reference)
    assert np.abs(samples - reference).max() < 1e-6


@pytest.mark.parametrize(
    "name, change",
    [
        *((name, change) for name in ("a.ogg", *ENCODED) for change in ("whole", "cut")),
        *(
            (name, "joined")
            for name in ("a.ogg", *ENCODED)
            if name[2:] not in ("m4a", "mkv", "webm")
        ),
    ],
)
def test_what_is_read_is_what_ffmpeg_decodes(tmp_path, name, change):
    path = made(tmp_path / name)
    data = path.read_bytes()
    if change == "joined":
        path.write_bytes(data + data)
    elif change == "cut":
        path.write_bytes(data[: int(0.6 * len(data))])
    rate = 48_000 if name in ("a.opus", "a.webm") else RATE
    samples, said = read(path, rate)
    reference = by_ffmpeg(path)
    assert len(samples) == len(reference) and np.abs(samples - reference).max() < 1e-6
    seconds = {"whole": 2.0, "cut": 1.2, "joined": 4.0}[change]
    assert len(samples) / rate == pytest.approx(seconds, abs=0.35)
    if change == "cut" and name not in ("no-xing.mp3", "a.mp2"):  # which may end anywhere
        (line,) = said
        assert "promises 2.0 s" in line or "its end is missing" in line
    elif change == "whole":
        assert said == []


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff"])
def test_an_uncompressed_file_that_ends_early(tmp_path, name):
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    soundfile.write(tmp_path / name, noise, RATE, subtype="PCM_16")
    full = soundfile.read(tmp_path / name, dtype="float32")[0]
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    samples, said = read(tmp_path / name)
    assert np.array_equal(samples, full[: len(samples)])
    assert len(samples) == pytest.approx(1.5 * RATE, abs=4096)
    assert said and set(said) == {"ends after 1.5 s, where its header promises 3.0 s"}


@pytest.mark.parametrize("size", [0, 2**31 - 2**12, 2**32 - 1])
def test_a_wav_that_was_written_to_a_pipe(tmp_path, size):
    soundfile.write(tmp_path / "a.wav", TONE, RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    data[4:8] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    samples, said = read(tmp_path / "a.wav")
    assert len(samples) == len(TONE) and said == []


def test_a_flac_that_was_written_to_a_pipe(tmp_path):
    soundfile.write(tmp_path / "a.flac", TONE, RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # 36 bits of STREAMINFO hold the number of samples
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    samples, said = read(tmp_path / "a.flac")
    assert len(samples) == len(TONE) and said == []
    assert audio.length(tmp_path / "a.flac", RATE) is None


def test_an_mp3_whose_header_lies(tmp_path):
    path = encode(tmp_path / "a.mp3", *ENCODED["vbr.mp3"])
    data = bytearray(path.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = struct.pack(">I", 10**6)
    path.write_bytes(data)
    samples, (line,) = read(path)
    assert len(samples) / RATE == pytest.approx(2.0, abs=0.15)
    assert line.startswith("ends after 2.") and "its header promises 261" in line


@pytest.mark.parametrize("name, count", [("a.wav", 0), ("a.flac", 1), ("b.wav", 1)])
def test_a_recording_of_no_samples_is_refused(tmp_path, name, count):
    soundfile.write(tmp_path / name, np.zeros(count), 192_000)
    with pytest.raises(SAMAudioError, match=f"{name} holds no samples"):
        _ = audio.Recording(tmp_path / name, 16_000).samples


def test_bad_files(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "a.mov").write_bytes(b"not a film")
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 48_000)
    soundfile.write(tmp_path / "slow.wav", TONE, 7)
    soundfile.write(tmp_path / "loud.wav", 32_768 * TONE, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", TONE * np.nan, RATE, subtype="FLOAT")
    os.mkfifo(tmp_path / "pipe.wav")
    for name, message in {
        "empty.wav": "is empty",
        "a.mov": "cannot read .*a.mov",
        "none.wav": "holds no samples",
        "slow.wav": "a sample rate of 7 Hz: 1000 to 768000 Hz are possible",
        "loud.wav": r"holds samples of 1.64e\+04: full scale is -1 to 1, scale them down",
        "nan.wav": "NaN or infinite",
        "pipe.wav": "pipe.wav is no regular file",
        "x" * 300 + ".wav": "cannot read x*: File name too long",
        "a\0b.wav": "a.x00b.wav",
    }.items():
        with pytest.raises(SAMAudioError, match=message):
            audio.read(tmp_path / name if "x" not in name else name, RATE)


@pytest.mark.parametrize("field, value", [(20, 0), (20, 0xFFFE), (34, 0), (22, 0)])
def test_a_wav_of_no_known_format(tmp_path, field, value):
    soundfile.write(tmp_path / "a.wav", TONE, RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[field : field + 2] = struct.pack("<H", value)
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(SAMAudioError, match="a.wav"):
        audio.read(tmp_path / "a.wav", RATE)


@pytest.mark.parametrize("name", ["2024-01-01T12:30:00.m4a", "100%d.m4a", b"\xff\xfe.m4a"])
def test_names_that_ffmpeg_would_take_for_something_else(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    encode(tmp_path / "a.m4a", *ENCODED["a.m4a"]).rename(path)
    assert len(audio.read(path, RATE)) == pytest.approx(2 * RATE, abs=4096)


def test_a_playlist_opens_no_other_file(tmp_path):
    encode(tmp_path / "a.mp3", *ENCODED["vbr.mp3"])
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:2,\na.mp3\n#EXT-X-ENDLIST\n")
    (tmp_path / "a.ffconcat").write_text("ffconcat version 1.0\nfile a.mp3\n")
    for name in ("a.m3u8", "a.ffconcat"):
        with pytest.raises(SAMAudioError, match=f"cannot read .*{name}"):
            audio.read(tmp_path / name, RATE)


@pytest.mark.parametrize("name", ["a.flac", "a.m4a", "a.mkv", "a.ogg", "a.opus"])
def test_a_file_that_is_damaged_in_the_middle(tmp_path, name):
    noise = np.random.default_rng(0).normal(0, 0.1, 300_000).astype(np.float32)
    if name in ENCODED:
        encode(tmp_path / name, *ENCODED[name], wave=noise)
    else:
        soundfile.write(tmp_path / name, noise, RATE)
    data = bytearray((tmp_path / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SAMAudioError, match=f"{name} is damaged after [23]."):
        audio.read(tmp_path / name, RATE)


@pytest.mark.parametrize("page, said", [(2, "begins in the middle"), (-1, "its end is missing")])
def test_an_ogg_whose_first_or_last_sound_is_damaged(tmp_path, page, said):
    data = bytearray(made(tmp_path / "a.opus").read_bytes())
    places = [match.start() for match in re.finditer(b"OggS", data)]
    data[places[page] + 100] ^= 1  # one bit
    (tmp_path / "a.opus").write_bytes(data)
    samples, notes = read(tmp_path / "a.opus", 48_000)
    assert 0 < len(samples) < 2 * 48_000 and any(said in line for line in notes)


def test_a_file_that_changes_between_two_passes(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    recording = audio.Recording(tmp_path / "a.wav", RATE)
    assert np.array_equal(np.concatenate(list(recording)), np.concatenate(list(recording)))
    soundfile.write(tmp_path / "a.wav", -TONE, RATE)
    with pytest.raises(SAMAudioError, match="a.wav changed while it was being separated"):
        list(recording)


def stereo(path, rate=RATE) -> np.ndarray:
    return np.concatenate(list(audio.blocks(path, rate, 2)), axis=1)


@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_each_of_two_channels_is_read_as_if_it_were_alone(tmp_path, rate):
    waves = np.stack([RISING, RISING[::-1] / 2])
    for name, samples in {"left": waves[0], "right": waves[1], "both": waves.T}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    assert [audio.channels(tmp_path / f"{name}.wav") for name in ("left", "both")] == [1, 2]
    alone = [audio.read(tmp_path / f"{name}.wav", rate) for name in ("left", "right")]
    assert np.array_equal(stereo(tmp_path / "both.wav", rate), alone)
    assert np.array_equal(stereo(tmp_path / "left.wav", rate), [alone[0], alone[0]])


SURROUND = {
    "5.1": "L R C C L R",
    "5.1(side)": "L R C C L R",
    "quad": "L R L R",
    "6.1": "L R C C C L R",
    "6.1(front)": "L R C L R L R",
    "2.1": "L R C",
}


@pytest.mark.parametrize("layout", SURROUND)
@pytest.mark.parametrize("name", ["a.wav", "a.mov"])
def test_more_channels_are_folded_to_the_side_where_they_belong(tmp_path, name, layout):
    sides = SURROUND[layout].split()
    waves = np.zeros((len(sides), 5000), np.float32)
    for i, wave in enumerate(waves):
        wave[100 * i] = 0.5
    path = encode(tmp_path / name, name[2:], "pcm_s16le", {}, waves, layout)
    assert audio.channels(path) == len(sides) and audio.folds(path)
    with pytest.warns(SAMAudioWarning, match=f"has {len(sides)} channels .*folded to stereo"):
        folded = stereo(path)[:, : 100 * len(sides) : 100] / 0.5
    shares = {"L": (1, 0), "R": (0, 1), "C": (0.5**0.5, 0.5**0.5)}
    wanted = np.array([shares[side] for side in sides]).T
    assert np.abs(folded - wanted / wanted[0].sum()).max() < 1e-4


def test_channels_of_unknown_places_have_a_mean_only(tmp_path):
    soundfile.write(tmp_path / "a.aiff", np.outer(TONE, [1, 0, 0.5, 0.5]), RATE)
    assert not audio.folds(tmp_path / "a.aiff")
    with pytest.raises(SAMAudioError, match="has 4 channels and does not tell which .*--mono"):
        stereo(tmp_path / "a.aiff")
    assert np.abs(audio.read(tmp_path / "a.aiff", RATE) - TONE / 2).max() < 1e-4


def test_joined_streams_of_one_two_and_six_channels(tmp_path):
    waves = np.array([[0.5], [0.25], [0], [0], [0], [0]], np.float32) * RISING
    parts = {"stereo": waves[:2], "mono": waves[:1], "5.1": waves}
    for layout, wave in parts.items():
        encode(tmp_path / layout, "adts", "aac", {}, wave, layout)
    path = tmp_path / "a.aac"
    path.write_bytes(b"".join((tmp_path / layout).read_bytes() for layout in parts))
    with pytest.warns(SAMAudioWarning, match="has 6 channels"):
        samples = stereo(path, 16_000)
    assert samples.shape == (2, len(audio.read(path, 16_000)))
    level = [np.square(part).mean(axis=1) ** 0.5 for part in np.array_split(samples, 3, axis=1)]
    left, right = np.array(level).T / level[0][0]
    assert np.abs(left - [1, 1, 0.293]).max() < 0.03
    assert np.abs(right - [0.5, 1, 0.146]).max() < 0.03


def test_a_stereo_recording_is_the_same_in_every_pass(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([TONE, -TONE], axis=1), RATE, subtype="FLOAT")
    recording = audio.Recording(tmp_path / "a.wav", 16_000, channels=2)
    passes = [np.concatenate(list(recording), axis=1) for _ in range(2)]
    assert np.array_equal(*passes) and passes[0].shape == (2, recording.samples)
    assert np.array_equal(passes[0][0], -passes[0][1]) and passes[0].any()


def test_a_peak_above_full_scale_is_kept_or_turned_down(tmp_path):
    notice = sound_files.write(tmp_path / "a.wav", 4 * TONE, RATE)
    assert "6.0 dB above full scale" in notice
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], 4 * TONE)
    notice = sound_files.write(tmp_path / "a.flac", 4 * TONE, RATE)
    assert "turned down by 6.0 dB" in notice
    written = soundfile.read(tmp_path / "a.flac")[0]
    assert np.abs(written - 2 * TONE).max() < 1e-3


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_the_same_samples_give_the_same_bytes(tmp_path, monkeypatch, suffix):
    written = []
    for time in (10**9, 2 * 10**9):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(time))
        sound_files.write(tmp_path / f"a{suffix}", TONE, RATE)
        written.append((tmp_path / f"a{suffix}").read_bytes())
    assert written[0] == written[1] and b"PEAK" not in written[0][:200]


@pytest.mark.parametrize("name", ["a.mp4", "a", "folder.wav", "file.wav/a.wav"])
def test_names_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file.wav").touch()
    with pytest.raises(SAMAudioError, match="cannot"):
        sound_files.write(tmp_path / name, TONE, RATE)


def test_a_long_name_can_be_written(tmp_path):
    sound_files.write(tmp_path / ("x" * 244 + ".flac"), TONE, RATE)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_text("before")

    def fail(*args, **kwargs):
        raise OSError("cable pulled")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(SAMAudioError, match="cable pulled"):
        sound_files.write(tmp_path / "a.wav", TONE, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_text() == "before"


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 96_000])
def test_the_length_is_known_before(tmp_path, rate):
    for samples in (1, 997, 20_198, 20_199, 20_200, 20_201):
        soundfile.write(tmp_path / "a.wav", np.zeros(samples), rate)
        for wanted in (16_000, 48_000):
            read = audio.read(tmp_path / "a.wav", wanted)
            assert audio.length(tmp_path / "a.wav", wanted) == len(read)
