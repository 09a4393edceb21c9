"""Sounds that the command makes of stems: sums of them, at any rate, through pipes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from mlx_sam_audio import SAMAudio
from mlx_sam_audio.media import audio, containers
from mlx_sam_audio.separate import main

QUICK = "--method euler --steps 1 --no-metrics".split()


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """The current folder, with 0.4 s of noise at 44.1 kHz."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.random.default_rng(0).normal(0, 0.1, 17_640), 44_100, "FLOAT")
    return tmp_path


@pytest.fixture
def separate(tiny_folder):
    """Runs the command with the tiny model."""

    def run(*arguments):
        assert main(["mix.wav", *arguments, "-m", str(tiny_folder), *QUICK]) == 0

    return run


def sound(path: str) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def test_gains_mix_what_was_separated(desk, separate):
    separate("-d", "dog", "--mix")
    target, residual = sound("mix.dog.wav"), sound("mix.without-dog.wav")
    recording = sound("mix.wav")
    assert (
        np.abs(sound("mix.mixture.wav") - soxr.resample(recording, 44_100, 48_000, "VHQ")).max()
        < 1e-3
    )
    for words, expected in (
        (["--remove", "dog"], residual),
        (["--keep", "dog"], target),
        (["-d", "dog", "--only", "target"], target),
        (["-d", "dog", "--only", "residual"], residual),
        (["--keep", "dog", "--bed", "-12dB"], target + np.float32(10**-0.6) * residual),
        (["--remove", "dog", "--bed", "-6 dB"], residual + np.float32(10**-0.3) * target),
    ):
        separate(*words, "-o", "one.wav")
        assert np.abs(sound("one.wav") - expected).max() < 1e-6, words
        assert not Path("one.residual.wav").exists()


@pytest.mark.parametrize("rate", [22_050, 44_100, 96_000])
def test_stems_that_add_up_do_so_at_any_rate(desk, separate, rate):
    separate("-d", "dog", "--subtract", "--rate", str(rate), "--mix")
    target, residual, mixture = (sound(f"mix.{x}.wav") for x in ("dog", "without-dog", "mixture"))
    assert soundfile.info("mix.dog.wav").samplerate == rate and len(target) == 0.4 * rate
    assert np.abs(target + residual - mixture).max() < 1e-6
    if rate == 44_100:
        assert np.array_equal(mixture, sound("mix.wav"))


def test_stems_of_the_model_are_as_long_as_the_recording_at_its_rate(desk, separate):
    separate("-d", "dog", "-o", "model/")
    separate("-d", "dog", "-o", "out/", "--rate", "input")
    for name in ("mix.dog.wav", "mix.without-dog.wav"):
        expected = soxr.resample(sound(f"model/{name}"), 48_000, 44_100, "VHQ")
        assert len(sound(f"out/{name}")) == len(sound("mix.wav"))
        assert np.abs(sound(f"out/{name}") - expected[:17_640]).max() < 1e-3


def test_pipes(desk, tiny_folder):
    command = [sys.executable, "-m", "mlx_sam_audio", "-m", str(tiny_folder), *QUICK[:-1]]
    recording = Path("mix.wav").read_bytes()
    done = subprocess.run(
        [*command, "-", "-d", "dog", "-o", "-"], input=recording, capture_output=True
    )
    assert done.returncode == 0 and b"memory" in done.stderr
    heard, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    result = SAMAudio.from_pretrained(tiny_folder).separate_long(
        "mix.wav", "dog", method="euler", steps=1
    )
    assert rate == 48_000 and np.abs(heard - np.array(result.target)).max() < 1e-5
    assert {path.name for path in desk.iterdir()} == {"mix.wav"}


def test_nothing_is_replaced_without_a_word(desk, separate, capsys):
    separate("-d", "dog", "-o", "out/dog.wav")
    assert "replaced" not in capsys.readouterr().err
    separate("-d", "dog", "-o", "out/dog.wav", "--only", "target")
    assert "note: out/dog.wav will be replaced\n" in capsys.readouterr().err
    extras = "-c 2 --keep-candidates all --metrics-json all/run.json".split()
    separate("-d", "dog", "-o", "one.wav", *extras)
    capsys.readouterr()
    separate("-d", "dog", "-o", "two.wav", *extras)
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "replaced" in x)
    assert line.startswith("note: all/run.json and all/0.target.wav and all/0.residual.wav and")
    with pytest.raises(AssertionError):
        separate("-d", "dog", "-o", "one.wav", "--span", "+5-6")
    assert "replaced" not in capsys.readouterr().err


def test_a_resumed_run_says_what_it_goes_on_from(desk, separate, monkeypatch, capsys):
    from mlx_sam_audio.engine import run

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.Decoder, "__call__", interrupt)
        with pytest.raises(AssertionError):
            separate("-d", "dog")
    separate("-d", "dog", "--resume")
    assert "1 of 1 evaluations were made before" in capsys.readouterr().out


def test_quiet_is_quiet(desk, separate, capsys):
    separate("-d", "dog", "-q", "-v", "--spectrogram", "dog.png")
    assert capsys.readouterr().out == "" and Path("dog.png").exists()


@pytest.fixture
def song(desk):
    """Stereo, 44.1 kHz."""
    noise = np.random.default_rng(1).normal(0, 0.1, (22_050, 2))
    noise[:, 1] *= 0.5
    soundfile.write("mix.wav", noise, 44_100, "FLOAT", format="WAV")
    return sound("mix.wav")


@pytest.mark.parametrize("rate", ["input", "48000", "32000"])
@pytest.mark.parametrize("words", [[], ["--stereo", "mid"], ["--mono"]], ids=" ".join)
def test_stems_and_the_rest_add_up_to_the_song(song, separate, words, rate):
    separate("-d", "dog", "-d", "a cat", "--mix", "-o", "out", "--rate", rate, *words)
    names = ("dog", "a-cat", "rest", "mixture")
    dog, cat, rest, mixture = (sound(f"out/mix.{name}.wav") for name in names)
    assert dog.ndim == (1 if words == ["--mono"] else 2)
    assert np.abs(dog + cat + rest - mixture).max() < 1e-5
    if rate == "input":
        assert np.array_equal(mixture, song.mean(axis=1) if dog.ndim == 1 else song)


def test_one_channel_in_is_one_channel_out(desk, separate):
    separate("-d", "dog", "--stereo", "both")
    assert sound("mix.dog.wav").ndim == 1


def test_faithful_stems_of_a_mono_recording_add_up(desk, separate):
    separate("-d", "dog", "--faithful", "--rate", "input")
    assert (
        np.abs(sound("mix.dog.wav") + sound("mix.without-dog.wav") - sound("mix.wav")).max() < 1e-5
    )


def test_removing_several_sounds_leaves_what_is_not_theirs(song, separate):
    separate("-d", "dog", "-d", "cat", "-o", "out/")
    separate("--remove", "dog", "--remove", "cat", "-o", "one.wav")
    assert np.abs(sound("one.wav") - sound("out/mix.rest.wav")).max() < 1e-6


def test_a_report_of_stems_tells_of_each(song, separate):
    separate("-d", "dog", "-d", "cat", "--metrics-json", "run.json", "--spectrogram", "run.png")
    told = json.loads(Path("run.json").read_text())
    assert [row["description"] for row in told["stems"]] == ["dog", "cat"]
    assert [row["target"] for row in told["stems"]] == ["mix.dog.wav", "mix.cat.wav"]
    assert told["rest"] == "mix.rest.wav" and told["seconds"]["total"] > 0


@pytest.mark.parametrize("kind", ["flac", "mp3", "m4a", "ogg", "aiff"])
def test_formats_keep_the_tags(song, separate, kind):
    with soundfile.SoundFile("mix.wav", "r+") as file:
        file.title, file.artist = "A song", "Somebody"
    separate("-d", "dog", "--format", kind)
    assert containers.tags(f"mix.dog.{kind}")["title"] == "A song"
    assert audio.channels(f"mix.without-dog.{kind}") == 2


def test_channels_without_names_are_averaged_with_a_note(desk, separate, capsys):
    soundfile.write("mix.wav", np.random.default_rng(0).normal(0, 0.1, (4800, 3)), 48_000)
    separate("-d", "dog")
    assert "averaged to one" in capsys.readouterr().err and sound("mix.dog.wav").ndim == 1
