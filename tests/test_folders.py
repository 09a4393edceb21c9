"""Many recordings by one command: what is done stays done, and what fails stops nothing."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mlx_sam_audio import SAMAudio
from mlx_sam_audio.command import manifest
from mlx_sam_audio.engine import run
from mlx_sam_audio.separate import main

QUICK = "--method euler --steps 1 --no-metrics".split()


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """The current folder, with recordings in folders."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("in/a.wav", "in/b.flac", "in/deep/c.wav", "in/.hidden.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(name, generator.normal(0, 0.1, 2000), 16_000)
    (tmp_path / "in/notes.txt").write_text("no sound")
    return tmp_path


@pytest.fixture
def separate(tiny_folder):
    """Runs the command with the tiny model; its status."""
    return lambda *arguments: main([*arguments, "-m", str(tiny_folder), *QUICK])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def states(folder: Path) -> list[str]:
    return [row["state"] for row in manifest.lines(folder / manifest.NAME)]


def test_folders_keep_their_structure(desk, separate):
    assert separate("in", "-r", "-d", "dog", "-o", "out") == 0
    stems = {
        f"{name}.{stem}.wav" for name in ("a", "b", "deep/c") for stem in ("dog", "without-dog")
    }
    assert files(desk / "out") == {*stems, manifest.NAME}
    assert states(desk / "out") == 3 * ["begun", "done"]


def test_what_failed_is_one_line_and_the_rest_goes_on(desk, separate, monkeypatch, capsys):
    for i in range(9):
        soundfile.write(f"in/{i}.wav", np.zeros(2000), 16_000)
    (desk / "in/5.wav").write_text("broken")
    loaded, load = [], SAMAudio.from_pretrained
    monkeypatch.setattr(
        SAMAudio, "from_pretrained", lambda *a, **k: loaded.append(a) or load(*a, **k)
    )
    assert separate("in", "in/deep/c.wav", "nowhere.wav", "-d", "dog", "-o", "out/") == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert [line.split(":")[1] for line in errors] == [" in/5.wav", " nowhere.wav"]
    assert "13 recordings: 11 made, 2 failed" in said.out and len(loaded) == 1
    assert len(files(desk / "out")) == 2 * 11 + 1
    rows = [row for row in manifest.lines(desk / "out" / manifest.NAME) if row["state"] == "done"]
    assert all(row["report"]["description"] == "dog" for row in rows) and len(rows) == 11


def test_only_what_is_done_is_skipped(desk, separate, capsys):
    command = ["in", "-d", "dog", "-o", "out", "--bits", "24"]
    assert separate(*command) == 0
    assert separate(*command) == 0 and "2 done before and skipped" in capsys.readouterr().out
    (desk / "out/a.dog.wav").unlink()
    assert separate(*command) == 0
    assert "1 made, 1 done before and skipped" in capsys.readouterr().out
    soundfile.write("in/b.flac", np.ones(3000) / 2, 16_000)
    assert separate(*command) == 0 and "1 made, 1 done" in capsys.readouterr().out
    for more in (["--seed", "1"], ["--span", "+0:0.1"], ["--only", "target"], ["--rate", "8000"],
                 ["--overwrite"], ["--mix"]):  # fmt: skip
        assert separate(*command, *more) == 0 and ": 2 made;" in capsys.readouterr().out, more


def test_names_that_another_prompt_took_are_made_again(desk, separate, capsys):
    command = ["in/a.wav", "in/b.flac", "-o", "out", "--only", "target", "--name", "{name}.{ext}"]
    assert separate(*command, "-d", "dog") == 0
    first = (desk / "out/a.wav").read_bytes()
    assert separate(*command, "-d", "cat") == 0
    assert "note: out/a.wav will be replaced" in capsys.readouterr().err
    assert separate(*command, "-d", "dog") == 0 and ": 2 made;" in capsys.readouterr().out
    assert (desk / "out/a.wav").read_bytes() == first


def test_files_of_others_are_not_replaced(desk, separate, capsys):
    (desk / "out").mkdir()
    (desk / "out/a.without-dog.wav").write_text("mine")
    assert separate("in", "-d", "dog", "-o", "out") == 1
    assert "was not written here before: --overwrite replaces it" in capsys.readouterr().err
    assert (desk / "out/a.without-dog.wav").read_text() == "mine"
    assert "a.dog.wav" not in files(desk / "out") and "b.dog.wav" in files(desk / "out")
    assert separate("in", "-d", "dog", "-o", "out", "--overwrite") == 0
    assert (desk / "out/a.without-dog.wav").read_bytes() != b"mine"


def test_a_folder_is_read_without_its_results(desk, separate, capsys):
    for _ in range(2):
        assert separate("in", "-r", "-d", "dog", "-o", "in") == 0
        assert "3 recordings" in capsys.readouterr().out
    assert separate("in", "-d", "cat", "-o", "in/out", "-r") == 0
    assert "3 recordings" in capsys.readouterr().out


def test_names_follow_a_template(desk, separate):
    name = "{prompt}/{index}-{name}-{seed}-{model}"
    assert separate("in", "-d", "A dog!", "-o", "out", "--name", name, "--only", "target") == 0
    assert files(desk / "out") == {"a-dog/1-a-0-tiny.wav", "a-dog/2-b-0-tiny.wav", manifest.NAME}


def test_results_that_would_share_a_name_are_refused_before_any_work(desk, separate, capsys):
    soundfile.write("in/A.flac", np.zeros(2000), 16_000)
    assert separate("in", "-d", "dog", "-o", "out") == 2
    assert "in/A.flac and in/a.wav would both be written to" in capsys.readouterr().err
    assert not (desk / "out").exists()
    assert separate("in", "-d", "dog", "-o", "out", "--name", "{index}.{prompt}.{ext}") == 0


def test_a_table_has_prompts_for_each_file(desk, separate):
    (desk / "jobs.csv").write_text("file,prompt,spans\nin/a.wav,dog,+0-0.1\nin/b.flac,cat,\n")
    assert separate("--jobs", "jobs.csv", "-o", "out") == 0
    names = {"in/a.dog.wav", "in/a.without-dog.wav", "in/b.cat.wav", "in/b.without-cat.wav"}
    assert files(desk / "out") == {*names, manifest.NAME}


def test_ctrl_c_says_how_far_it_came(desk, separate, monkeypatch, capsys):
    decode, calls = run.Decoder.__call__, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run.Decoder, "__call__", interrupted)
        assert separate("in", "-d", "dog", "-o", "out") == 130
    assert "stopped; 1 of 2 are done; the same command goes on" in capsys.readouterr().err
    assert separate("in", "-d", "dog", "-o", "out") == 0
    said = capsys.readouterr().out
    assert "1 of 1 evaluations were made before" in said and "1 made, 1 done" in said


def test_an_empty_folder_is_refused(desk, separate, capsys):
    (desk / "in/nothing").mkdir()
    assert separate("in/nothing", "-d", "dog") == 2
    assert "no sound or video files in in/nothing (-r takes" in capsys.readouterr().err


def test_a_kill_in_the_middle_is_made_good_by_the_same_command(desk):
    for i in range(4):
        soundfile.write(f"in/{i}.wav", np.random.default_rng(i).normal(0, 0.1, 48_000), 16_000)
    words = "in -m demo -d bird --steps 6 --no-metrics -o".split()
    start = [sys.executable, "-m", "mlx_sam_audio", *words]
    subprocess.run([*start, "whole"], check=True, capture_output=True)
    killed = subprocess.Popen([*start, "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while states(desk / "out").count("begun") < 3 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    killed.kill()
    killed.communicate()
    assert states(desk / "out")[-1] == "begun"
    with open(desk / "out" / manifest.NAME, "a") as file:
        file.write('{"state": "do')  # torn, as by a machine that lost its power
    done = subprocess.run([*start, "out"], check=True, capture_output=True, text=True)
    assert "6 recordings: 4 made, 2 done before and skipped" in done.stdout
    assert files(desk / "out") == files(desk / "whole")
    for name in files(desk / "whole") - {manifest.NAME}:
        assert (desk / "out" / name).read_bytes() == (desk / "whole" / name).read_bytes()
    json.loads((desk / "out" / manifest.NAME).read_text().splitlines()[-1])
