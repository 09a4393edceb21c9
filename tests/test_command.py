"""The command, as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mlx_sam_audio import SAMAudio
from mlx_sam_audio.engine import run
from mlx_sam_audio.separate import main


@pytest.fixture
def mp3(tmp_path):
    """Stereo, 44.1 kHz, noise under a tone."""
    generator = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44_100 // 2) / 44_100)
    noise = generator.normal(0, 0.1, (len(tone), 2))
    soundfile.write(tmp_path / "mix.mp3", tone[:, None] + noise, 44_100)
    return tmp_path / "mix.mp3"


def test_end_to_end(tiny_folder, mp3, tmp_path):
    command = [sys.executable, "-m", "mlx_sam_audio.separate", "-m", str(tiny_folder)]
    command += ["-i", str(mp3), "-d", "a tone", "--span", "+0.1:0.3"]
    command += ["--span", "-0.35:0.4", "-o", "out/tone.wav"]
    command += ["--residual", "out/rest.flac", "--steps", "2", "--metrics-json", "out/run.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage in ("load", "encode", "solve", "decode", "total", "real-time factor", "peak", "seed"):
        assert stage in done.stdout
    values = json.loads((tmp_path / "out/run.json").read_text())
    assert values["evaluations"] == 3 and values["spans"] == [["+", 0.1, 0.3], ["-", 0.35, 0.4]]

    model = SAMAudio.from_pretrained(tiny_folder)
    target, rate = soundfile.read(tmp_path / "out/tone.wav", dtype="float32")
    assert rate == model.sample_rate and len(target) == model.encode(mp3).samples
    assert len(soundfile.read(tmp_path / "out/rest.flac")[0]) == len(target)


def test_a_run_can_be_repeated(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.random.default_rng(0).normal(0, 0.1, 5000), 16_000)
    command = ["-m", str(tiny_folder), "-i", "mix.wav", "-d", "dog", "--method", "euler"]
    command += ["--steps", "2", "--seed", "5", "--no-metrics"]
    assert main(command) == main([*command, "-o", "again.wav"]) == 0
    assert capsys.readouterr().out == ""
    for first, second in (("mix.dog", "again"), ("mix.without-dog", "again.residual")):
        a, b = (soundfile.read(f"{name}.wav", dtype="float32")[0] for name in (first, second))
        assert np.array_equal(a, b) and len(a) == 15_000


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no input: name a recording, or try --demo"),
        (["-i", "nowhere.wav", "-d", "dog"], "there is no file nowhere.wav"),
        (["-i", "mix.wav"], "the prompt is empty"),
        (["-i", "mix.wav", "-d", "dog", "--span", "1:2"], "cannot read the span '1:2'"),
        (["-i", "mix.wav", "-d", "dog", "--span", "+0:9"], "ends after the audio"),
        (["-i", "mix.wav", "-d", "dog", "-o", "a.xyz"], "must end in .wav or .flac"),
        (["-i", "mix.wav", "-d", "dog", "-o", "mix.wav"], "mix.wav is a recording itself"),
        (["mix.wav", "-d", "dog", "--residual", "mix.wav"], "mix.wav is a recording itself"),
        (["mix.wav", "-d", "dog", "-o", "a.wav", "--residual", "a.wav"], "target and residual of"),
        (["-i", "mix.wav", "-d", "dog", "--steps", "0"], "whole number, 1 to 10000"),
        (["-i", "mix.wav", "-d", "dog", "-m", "./none"], "there is no model folder ./none"),
        (["-i", "text.wav", "-d", "dog"], "cannot read text.wav"),
        (["-i", "mix.wav", "-d", "dog", "--metrics-json", "mix.wav"], "must end in .json"),
        (["-i", "mix.wav", "-d", "dog", "--spectrogram", "mix.wav"], "must end in .png"),
        pytest.param(
            ["-i", "mix.wav", "-d", "dog", "--spectrogram", "/proc/self/a.png"],
            "cannot write into the folder /proc/self",  # which the permissions do not tell
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no /proc"),
        ),
        (["-i", "mix.wav", "-d", "dog", "--keep-candidates", "all"], "give -c too"),
        (["-i", "mix.wav", "-d", "dog", "--ranker", "clap"], "give -c too"),
        (["-i", "mix.wav", "-d", "dog", "--span-gap", "1"], "--span-gap needs --predict-spans"),
        (["-i", "mix.wav", "-d", "dog", "-o", "a.wav", "--name", "{index}"], "-o names a file"),
        (["-i", "mix.wav", "-d", "dog", "--absent", "nan"], "absent must be decibels, not nan"),
        (["-i", "mix.wav", "-d", "dog", "--window", "-3"], "must last some seconds"),
        (["-i", "mix.wav", "-d", "dog", "--window", "1e308"], "rotary table"),
        (["-i", "mix.wav", "-d", "dog", "--max-memory", "9" * 400], "is no amount of memory"),
        (["-i", "mix.wav", "-d", "\udcff"], r"the description is no Unicode text: \udcff"),
        (["-i", "mix.wav", "-d", "dog", "-o", "x" * 300 + ".wav"], "File name too long"),
        (["-i", "x" * 300, "-d", "dog"], "File name too long"),
        (["-i", "\x1b[31m.wav", "-d", "dog"], r"there is no file \x1b[31m.wav"),
        (["-i", "mix.wav", "-d", "dog", "-c", "65"], "candidates must be 1 to 64"),
        (["--demo", "-i", "mix.wav"], "--demo makes its own example"),
        (["https://a.org/b.wav", "-d", "dog"], "is an address: download it first"),
        (["mix.wav", "-d", "dog", "--bed", "-12dB"], "it needs --keep or --remove"),
        (["mix.wav", "--keep", "dog", "--bed", "less"], "cannot read the gain 'less'"),
        (["mix.wav", "-d", "dog", "--remove", "cat"], "use one of them"),
        (["mix.wav", "--remove", "dog", "--only", "target"], "leave out --only"),
        (["mix.wav", "-d", "dog", "-d", "cat", "-o", "a.wav"], "name a folder for them"),
        (["mix.wav", "-d", "a dog", "-d", "A dog!"], "would both be written to mix.a-dog.wav"),
        (["mix.wav", "-d", "dog", "-d", "rest"], "would both be written to mix.rest.wav"),
        (["mix.wav", "-d", "dog", "--name", "{nme}"], "--name knows {name}"),
        (["mix.wav", "-d", "dog", "--name", "../{name}"], "leads out of the folder"),
        (["mix.wav", "-d", "dog", "--name", "{name"], "--name knows {name}"),
        (["mix.wav", "-d", "dog", "--rate", "fast"], "or input for the recording's"),
        (["mix.wav", "-d", "dog", "-o", "a.wav", "--format", "flac"], "leave out --format"),
        (["mix.wav", "-d", "dog", "--only", "target", "--residual", "a.wav"], "leave it out"),
        (["mix.wav", "--preset", "bnd"], "did you mean band?"),
        (["mix.wav", "-d", "dog", "--labels", "none.txt"], "there is no file none.txt"),
        (["mix.wav", "-d", "dog", "--box", "1,2,3,4", "--box", "5,6,7,8"], "has one --box"),
        (["mix.wav", "-d", "dog", "--jobs", "jobs.csv"], "leave out all others"),
        (["mix.wav", "text.wav", "-d", "dog", "-o", "a.wav"], "name a folder for them"),
        (["mix.wav", "a/mix.wav", "-d", "dog"], "would both be written to"),
        (["mix.wav", "text.wav", "-d", "dog", "--spectrogram", "a.png"], "is for one recording"),
        (["mix.wav", "-d", "dog", "-d", "cat", "-o", "-"], "-o - writes one result"),
        (["mix.wav", "-d", "dog", "-o", "-", "--format", "flac"], "-o - writes wav"),
    ],
)
def test_errors_are_one_line(tiny_folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.zeros(5000), 16_000)
    (tmp_path / "text.wav").write_text("no sound at all")
    if "-m" not in arguments:
        arguments = [*arguments, "-m", str(tiny_folder)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"mix.wav", "text.wav"}


def test_the_gate_and_a_subtracted_residual_add_up_to_the_input(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wave = np.random.default_rng(0).normal(0, 0.1, 96_000).astype(np.float32)
    soundfile.write("mix.wav", wave, 48_000, subtype="FLOAT")
    command = ["-m", str(tiny_folder), "-i", "mix.wav", "-d", "dog", "--method", "euler"]
    assert main([*command, "--steps", "1", "--gate", "--subtract"]) == 0
    stems = [
        soundfile.read(f"mix.{stem}.wav", dtype="float32")[0] for stem in ("dog", "without-dog")
    ]
    assert np.abs(sum(stems) - wave).max() < 1e-6


def test_an_output_may_be_a_loop_of_links(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.zeros(5000), 16_000)
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    command = ["-m", str(tiny_folder), "-i", "mix.wav", "-d", "dog", "--method", "euler"]
    assert main([*command, "--steps", "1", "-o", "loop.wav"]) == 0
    assert len(soundfile.read("loop.wav")[0]) == 15_000


def test_wrong_arguments_are_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--method", "magic"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "'magic'" in error and error.count("\n") == 1


def test_ctrl_c_leaves_no_half_file(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.zeros(5000), 16_000)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.Decoder, "__call__", interrupt)
    assert main(["-i", "mix.wav", "-d", "dog", "-m", str(tiny_folder), "--steps", "1"]) == 130
    assert "no output was written; --resume goes on" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"mix.wav", ".mix.dog.wav.resume"}


def test_a_bug_keeps_its_traceback(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.zeros(5000), 16_000)
    monkeypatch.setattr(run.Run, "conditions", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["-i", "mix.wav", "-d", "dog", "-m", str(tiny_folder)])


def test_candidates(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", np.random.default_rng(0).normal(0, 0.1, 19_200), 48_000)
    command = ["-m", str(tiny_folder), "-i", "mix.wav", "-d", "dog", "--steps", "1", "-c", "3"]
    command += ["--seed", "4", "--keep-candidates", "all", "--metrics-json", "run.json"]
    assert main(command) == 0
    rows = json.loads((tmp_path / "run.json").read_text())["candidates"]
    assert [row["seed"] for row in rows] == [4, 5, 6]
    best = max(rows, key=lambda row: row["score"])["seed"]
    assert f"seed {best} is the best of 3" in capsys.readouterr().out
    kept, written = (soundfile.read(f"{name}.wav")[0] for name in (f"all/{best}.target", "mix.dog"))
    assert np.array_equal(kept, written) and len(list((tmp_path / "all").iterdir())) == 6

    for arguments, message in (
        (["-c", "few"], '--candidates takes a number or "auto"'),
        (["-c", "0"], "1 to 64"),
        (["-c", "2", "--ranker", "taste"], "there is no ranker taste"),
        (["-c", "2", "--window", "0.3", "--overlap", "0.1"], "window"),
    ):
        assert main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
