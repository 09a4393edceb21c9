"""Videos with new sound, and pictures of videos."""

import numpy as np
import pytest
from clips import RATE, av, beeps, clip, grey, turned

from mlx_sam_audio import SAMAudioError, audio, preview, video_files
from mlx_sam_audio.video import MaskedVideo, matched


def packets(path) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def heard(path) -> tuple[np.ndarray, float]:
    """The sound of a file, and when it starts."""
    return audio.read(path, RATE), video_files.sound_start(path)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
@pytest.mark.parametrize("sound_start", [0.0, 0.4])
def test_new_sound_in_an_old_video(tmp_path, name, sound_start):
    source = clip(tmp_path / "a.mp4", sound=beeps(1, [0.5]), sound_start=sound_start)
    wave, zero = heard(source)
    video_files.remux(source, wave, RATE, tmp_path / name)
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
    out = tmp_path / "out.mov"
    assert video_files.write(source, np.split(wave, [5, 30_000]), RATE, out, out, 0.5) == []
    assert np.abs(audio.read(tmp_path / "out.mov", RATE) - wave).max() < 1e-6
    frame, _ = next(matched(MaskedVideo(tmp_path / "out.mov"), np.zeros(1)))
    assert frame.shape == (3, 64, 48)


def test_a_video_that_cannot_be_written(tmp_path):
    source = clip(tmp_path / "a.mkv", codec="libvpx", pix_fmt="yuv420p")
    wave = beeps(0.5, [0])
    for output, message in (
        (tmp_path / "out.avi", "must end in .mp4"),
        (source, "is the video itself"),
        (tmp_path / "out.mp4", "cannot hold vp8 video: try .mkv"),
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


def test_pictures_for_people(tmp_path):
    path = clip(tmp_path / "a.mp4")
    preview.contact_sheet(path, tmp_path / "sheets" / "sheet.png")
    preview.preview(MaskedVideo(path, (30, 10, 50, 20)), tmp_path / "preview.png")
    for name in ("sheets/sheet.png", "preview.png"):
        time, image = video_files.frame_at(tmp_path / name, 0)
        assert image.shape[0] == 3 and min(image.shape[1:]) > 300
    (*_, first), (*_, last) = (video_files.frame_at(path, seconds) for seconds in (0.1, 0.9))
    assert (grey(first), grey(last)) == (2, 22)
