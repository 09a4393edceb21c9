import av
import numpy as np
import pytest
import soundfile

from mlx_sam_audio import SAMAudioError, audio

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(4410) / 44_100)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.aiff"])
def test_formats(tmp_path, name):
    soundfile.write(tmp_path / name, np.stack([TONE, -TONE / 2], axis=1), 44_100)
    samples = audio.read(tmp_path / name, 48_000)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(4800, abs=60)  # ogg and mp3 pad
    assert np.abs(samples).max() == pytest.approx(0.125, rel=0.1)


def write_m4a(path, rate):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([TONE, TONE]), "fltp", "stereo")
        frame.rate = rate
        for part in (frame, None):
            container.mux(stream.encode(part))


def test_containers(tmp_path):
    write_m4a(tmp_path / "a.m4a", 44_100)
    samples = audio.read(tmp_path / "a.m4a", 44_100)
    assert np.abs(samples).max() == pytest.approx(0.5, rel=0.1)
    (tmp_path / "a.mov").write_bytes(b"not a film")
    with pytest.raises(SAMAudioError, match="cannot read .*a.mov"):
        audio.read(tmp_path / "a.mov", 44_100)


def test_bad_files(tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(SAMAudioError, match="is empty"):
        audio.read(tmp_path / "empty.wav", 48_000)
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 48_000)
    with pytest.raises(SAMAudioError, match="holds no samples"):
        audio.read(tmp_path / "none.wav", 48_000)


def test_a_peak_above_full_scale_is_kept_or_turned_down(tmp_path):
    notice = audio.write(tmp_path / "a.wav", 4 * TONE, 44_100)
    assert "6.0 dB above full scale" in notice
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], 4 * TONE)
    notice = audio.write(tmp_path / "a.flac", 4 * TONE, 44_100)
    assert "turned down by 6.0 dB" in notice
    written = soundfile.read(tmp_path / "a.flac")[0]
    assert np.abs(written - 2 * TONE).max() < 1e-3


@pytest.mark.parametrize("name", ["a.mp4", "a", "folder.wav", "file.wav/a.wav"])
def test_names_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file.wav").touch()
    with pytest.raises(SAMAudioError, match="cannot"):
        audio.write(tmp_path / name, TONE, 44_100)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_text("before")

    def fail(*args, **kwargs):
        raise OSError("cable pulled")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(SAMAudioError, match="cable pulled"):
        audio.write(tmp_path / "a.wav", TONE, 44_100)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_text() == "before"


def test_a_file_that_is_damaged_in_the_middle(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 300_000), 16_000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(SAMAudioError, match="a.flac is damaged"):
        audio.read(path, 16_000)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 96_000])
def test_the_length_is_known_before(tmp_path, rate):
    for samples in (1, 997, 20_198, 20_199, 20_200, 20_201):
        soundfile.write(tmp_path / "a.wav", np.zeros(samples), rate)
        for wanted in (16_000, 48_000):
            read = audio.read(tmp_path / "a.wav", wanted)
            assert audio.length(tmp_path / "a.wav", wanted) == len(read)
