"""Sound files that are written: what they hold, in every format."""

import json
import shutil
import subprocess
from itertools import product

import av
import numpy as np
import pytest
import soundfile

from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.media import audio, containers, sound_files

RATE = 44_100
SUFFIXES = [".wav", ".flac", ".aiff", ".aif", ".mp3", ".m4a", ".ogg"]
LOSSLESS = [(".wav", 16), (".wav", 24), (".wav", 32), (".flac", 16), (".flac", 24)]
LOSSLESS += [(".aiff", 16), (".aiff", 24), (".aiff", 32)]
TAGS = dict(title="Übung 猫", artist="Ann & Bob", comment="a\nb", copyright="© Ann")
MORE = dict(album="Live", date="1999-03-04", genre="Jazz", track="3/12")


def waves(samples=RATE, level=0.3) -> np.ndarray:
    """Noise, other on the left than on the right, of the frequencies that lossy formats keep."""
    spectrum = np.random.default_rng(0).normal(size=(2, samples // 2 + 1, 2)) @ [1, 1j]
    spectrum *= np.arange(spectrum.shape[1]) < 4000 * samples / RATE
    wave = np.fft.irfft(spectrum, samples)
    return (level * wave / np.abs(wave).max()).astype(np.float32)


def write(path, samples, bits=None, tags=None, rate=RATE) -> sound_files.Writer:
    writer = sound_files.Writer(
        path, path, rate, samples.shape[-1], len(np.atleast_2d(samples)), bits, tags
    )
    for piece in np.array_split(samples, 7, axis=-1):
        writer.write(piece)
    writer.close()
    return writer


def read(path, channels=2) -> np.ndarray:
    return np.concatenate(list(audio.blocks(path, RATE, channels)), axis=-1)


@pytest.mark.parametrize("suffix, bits", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_formats_are_off_by_rounding_alone(tmp_path, suffix, bits, channels):
    path, wave = tmp_path / f"a{suffix}", waves()
    wave = wave if channels == 2 else wave[0]
    assert write(path, wave, bits).notice is None
    header = soundfile.info(str(path))
    assert (header.channels, header.samplerate) == (channels, RATE)
    assert header.subtype == {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}[bits]
    step = 0 if bits == 32 else 2.0 ** (1 - bits)
    assert np.abs(read(path, channels) - wave).max() <= (1.5 if bits == 16 else 0.5) * step


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".ogg"])
@pytest.mark.parametrize("rate", [RATE, 16_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_keep_time_channels_and_almost_all_else(tmp_path, suffix, rate, channels):
    path, wave = tmp_path / f"a{suffix}", waves()[:channels]
    write(path, wave if channels == 2 else wave[0], rate=rate)
    assert audio.channels(path) == channels
    after = np.atleast_2d(np.concatenate(list(audio.blocks(path, rate, channels)), axis=-1))
    assert -150 < after.shape[1] - RATE < 1100
    after = after[:, : wave.shape[1]]
    error = after[:, 4000:40_000] - wave[:, 4000:40_000]
    assert np.square(error).mean() < 0.03 * np.square(wave).mean()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tags_are_carried_over(tmp_path, suffix):
    write(tmp_path / f"a{suffix}", waves(9000), tags=TAGS | MORE)
    kept = TAGS if suffix.startswith(".aif") else TAGS | MORE
    assert containers.tags(tmp_path / f"a{suffix}") == kept
    bare = tmp_path / f"b{suffix}"
    write(bare, waves(9000))
    assert containers.tags(bare) == {}


def test_tags_that_are_long_or_no_utf8(tmp_path):
    write(tmp_path / "a.wav", waves(9000), tags=dict(title="Cafe", comment="x" * 4000))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content.replace(b"Cafe", b"Caf\xe9"))
    tags = containers.tags(tmp_path / "a.wav")
    assert tags["title"] == "Café" and 500 < len(tags["comment"]) < 4000
    for suffix in SUFFIXES:
        write(tmp_path / f"b{suffix}", waves(9000), tags=tags)
        assert containers.tags(tmp_path / f"b{suffix}") == tags


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for suffix, bits in [*LOSSLESS, (".mp3", None), (".m4a", None)]:
        paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for path in paths:
            write(path, waves(9000), bits, TAGS)
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("suffix, bits", [(".wav", 16), (".flac", None), (".mp3", None)])
def test_what_cannot_hold_a_peak_is_turned_down_in_both_channels(tmp_path, suffix, bits):
    path, wave = tmp_path / f"a{suffix}", waves(level=2.0)
    notice = write(path, wave, bits).notice
    what = "wav of 16 bits" if bits else suffix[1:]
    assert notice.endswith(f"{what} cannot hold that, so it was turned down by 6.0 dB")
    after = read(path)[:, : wave.shape[1]]
    assert np.square(after - wave / 2).mean() < 0.03 * np.square(wave / 2).mean()


def test_dither_is_white_independent_of_the_sound_and_unbiased(tmp_path):
    quiet = 0.6 * np.sin(np.arange(2**16) / 7) / 2**15  # of less than a step
    write(tmp_path / "a.wav", np.stack([quiet, waves(2**16)[0]]).astype(np.float32), 16)
    steps = soundfile.read(tmp_path / "a.wav", dtype="int16")[0].T
    error = steps - np.stack([quiet, waves(2**16)[0]]).astype(np.float32) * 2.0**15
    assert np.abs(error.mean(axis=1)).max() < 0.01
    assert np.abs(error.var(axis=1) - 0.25).max() < 0.01  # of triangular noise and of rounding
    assert abs(np.corrcoef(error[0], quiet)[0, 1]) < 0.02
    assert abs(np.corrcoef(*error)[0, 1]) < 0.02
    power = np.square(np.abs(np.fft.rfft(error)))[:, 1:-1].reshape(2, -1)
    bands = [band.mean() for band in np.array_split(power, 16, axis=1)]
    assert max(bands) < 1.2 * min(bands)


def test_16_bits_of_16_bits_are_the_same_and_silence_is_silent(tmp_path):
    steps = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 9000))
    steps[:, 3000:6000] = 0
    write(tmp_path / "a.wav", (steps / 2.0**15).astype(np.float32), 16)
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0].T, steps)


def test_a_long_ogg(tmp_path):
    """Where libsndfile overran its stack, had it been given all at once."""
    write(tmp_path / "a.ogg", np.tile(waves()[0], 70))
    assert read(tmp_path / "a.ogg", 1).shape[-1] == pytest.approx(70 * RATE, abs=4096)


@pytest.mark.parametrize(
    "name, rate, bits, message",
    [
        ("a.mp3", 96_000, None, "mp3 holds sound of 8000, .*48000 Hz, not 96000 Hz"),
        ("a.ogg", 384_000, None, "ogg holds sound of 1000 to 200000 Hz, not 384000 Hz"),
        ("a.m4a", 37_800, None, "not 37800 Hz"),
        ("a.flac", 44_100, 32, "a.flac of 32 bits: flac has 16 or 24 bits"),
        ("a.mp3", 44_100, 16, "a.mp3 of 16 bits: mp3 has no number of bits"),
        ("a.wav", 44_100, 8, "wav has 16 or 24 or 32 bits"),
    ],
)
def test_what_a_format_cannot_hold_is_known_before(tmp_path, name, rate, bits, message):
    with pytest.raises(SAMAudioError, match=message):
        sound_files.check(tmp_path / name, rate, bits)


def test_every_rate_that_passes_the_check_can_be_written(tmp_path):
    rates = (1000, 8000, 11_025, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 200_000, 655_350)
    for suffix, rate in product(SUFFIXES, (*rates, 768_000)):
        path = tmp_path / f"{rate}{suffix}"
        try:
            sound_files.check(path, rate)
        except SAMAudioError:
            continue
        write(path, waves(9000), rate=rate)
        with av.open(str(path)) as container:
            assert container.streams.audio[0].sample_rate == rate


def test_an_aiff_that_would_be_too_long(tmp_path):
    with pytest.raises(SAMAudioError, match="a.aiff: an aiff has 4 GiB at most"):
        sound_files.Writer(tmp_path / "a", tmp_path / "a.aiff", RATE, 2**30, 2)


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs FFmpeg's programs")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_programs_see_two_channels_and_the_title(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, waves(9000), tags=dict(title="A title"))
    command = ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", path]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    (stream,) = shown["streams"]
    assert stream["channels"] == 2 and int(stream["sample_rate"]) == RATE
    texts = {**stream.get("tags", {}), **shown["format"].get("tags", {})}
    assert "A title" in texts.values()
