"""Several processes at one folder: each file by one of them, whoever dies, hangs or differs."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import ranks
import soundfile

from mlx_sam_audio import SAMAudioError, SAMAudioWarning
from mlx_sam_audio.command import claims, crew, manifest
from mlx_sam_audio.command.crew import Crew
from mlx_sam_audio.command.inputs import Source
from mlx_sam_audio.command.jobs import Job
from mlx_sam_audio.command.manifest import Manifest
from mlx_sam_audio.separate import main

WORDS = "in -m demo -d bird --method euler --no-metrics".split()
COMMAND = [*ranks.SEPARATE, *WORDS]
BAD = ("failed", "in/bad.wav")
LENGTHS = (0.3, 1.0, 0.2, 0.7, 0.5)  # seconds


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """Recordings, and what one process makes of them in one step."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "in").mkdir()
    generator = np.random.default_rng(0)
    for i, length in enumerate(LENGTHS):
        samples = generator.normal(0, 0.1, int(length * 16_000))
        soundfile.write(folder / f"in/{i}.wav", samples, 16_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*WORDS, "--steps", "1", "-o", "whole"]) == 0
    return folder


@pytest.fixture
def desk(tmp_path, shared, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(shared, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def whole(desk) -> dict[str, bytes]:
    return sounds("whole")


def sounds(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.wav")}


def rows(path: str) -> list[tuple[str, str]]:
    return [(row["state"], row["input"]) for row in manifest.lines(Path(path))]


def until(told, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end
        time.sleep(0.01)


def at_work(folder: str) -> set[int]:
    """The processes that are at a recording of which something is done."""
    if not list(Path(folder).glob(".*.resume")):
        return set()
    return {claims.told(path).get("process") for path in Path(folder).glob(".mlx*/*.claim")}


def test_every_recording_is_made_once_and_as_by_one_process(desk, whole):
    Path("in/bad.wav").write_text("broken")
    said = ranks.launch(3, *COMMAND, "--steps", "1", "-o", "out")
    assert "6 recordings: 5 made, 1 failed" in said.stdout, said
    assert "error: in/bad.wav: " in said.stderr
    assert sounds("out") == whole and set(os.listdir("out")) == {*whole, manifest.NAME}
    states = rows(f"out/{manifest.NAME}")
    names = [f"in/{i}.wav" for i in range(5)]
    assert {states.pop(states.index(failed)) for failed in 2 * [BAD] if failed in states} == {BAD}
    assert sorted(states) == sorted((state, x) for state in ("begun", "done") for x in names)
    assert all(f"\n{name}: out/" in f"\n{said.stdout}" for name in names)


def test_an_empty_folder_is_one_sentence(desk):
    Path("in/deep").mkdir()
    with ranks.started(2, *ranks.SEPARATE, "in/deep", *WORDS[1:]) as both:
        for status, _, said in map(ranks.ended, both):
            assert status == 2 and said.startswith("error: there are no sound or video files in ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_dies_or_hangs_costs_its_recording_only(desk, whole, number):
    words = [*COMMAND, "--steps", "12", "--lease", "2", "-o", "out"]
    with ranks.started(2, *words) as (first, second):
        until(lambda: second.pid in at_work("out"))
        second.send_signal(number)
        status, said, _ = ranks.ended(first)
        assert status == 0 and "5 recordings: 5 made" in said
        made = sounds("out")
        assert set(made) == set(whole) and not list(Path("out").glob(".mlx*"))
        if number == signal.SIGSTOP:  # when it wakes up, it sees that all is done
            second.send_signal(signal.SIGCONT)
            status, _, said = ranks.ended(second)
            assert status == 0 and "error" not in said
    assert sounds("out") == made and not list(Path("out").glob(".mlx*"))


def test_what_mlx_launch_killed_is_finished_by_one_process(desk, capsys):
    words = [*COMMAND, "--steps", "8", "-o", "out"]
    with ranks.started(2, *words) as both:
        until(lambda: len(sounds("out")) >= 6)  # of one of them it is told, too, that it is done
        for rank in both:
            rank.kill()
    assert Path("out/.mlx-sam-audio").exists()
    assert main([*WORDS, "--steps", "8", "-o", "out"]) == 0
    assert "done before and skipped" in capsys.readouterr().out
    assert len(sounds("out")) == 10 and not list(Path("out").glob(".mlx*"))


def test_fewer_go_on_where_a_crew_was_killed_but_not_with_what_changed_since(desk):
    words = [*COMMAND, "--steps", "4", "-o", "out"]
    with ranks.started(3, *words) as all_three:
        until(lambda: len(sounds("out")) >= 4)
        for rank in all_three:
            rank.kill()
    for path in Path("in").glob("*.wav"):  # of the same size
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[::-1], rate)
    said = ranks.launch(2, *words)
    assert "5 recordings: 5 made" in said.stdout, said
    assert main([*WORDS, "--steps", "4", "-o", "again"]) == 0
    assert sounds("out") == sounds("again") and not list(Path("out").glob(".mlx*"))


def test_others_with_something_else_are_refused(desk, whole):
    each = [(), ("--seed", "2", "--bits", "16")]
    words = [*COMMAND, "--steps", "1", "--lease", "1", "-o", "out"]
    with ranks.started(2, *words, more=each) as both:
        second = ranks.ended(both[1])
        if second[0]:  # not after the first one had gone
            assert second[0] == 2 and "works in out with another settings than" in second[2]
        assert ranks.ended(both[0])[0] == 0
    assert sounds("out") == whole


def test_a_crew_refuses_what_it_cannot_do(desk, monkeypatch):
    monkeypatch.setenv("MLX_RANK", "0")
    Path("hosts.json").write_text("[[], []]")
    monkeypatch.setenv("MLX_HOSTFILE", "hosts.json")
    assert main([*WORDS, "-o", "-"]) == 2
    for lease in ("0", "nan", "inf", "1e12"):
        assert main([*WORDS, "--lease", lease]) == 2
    monkeypatch.setenv("MLX_RANK", "2")
    assert main(WORDS) == 2


def test_a_claim_is_had_by_one(tmp_path):
    path, now = tmp_path / "x.claim", time.time()
    assert claims.take(path) and not claims.take(path)
    assert claims.is_mine(path) and not claims.is_left(tmp_path / "none", now, 1)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for found, left in (({"process": dead.pid}, True), ({"process": os.getppid()}, False),
                        ({"process": dead.pid, "host": "elsewhere"}, False)):  # fmt: skip
        path.write_text(json.dumps({**claims.me(), **found}))
        assert claims.is_left(path, now, 60) == left
    for strange in (now + 100, now - 100):
        os.utime(path, (strange, strange))
        assert claims.is_left(path, now, 60)
    assert claims.take_over(path) and claims.is_mine(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.claim"]
    assert not claims.take(tmp_path / "gone/x.claim") and not claims.take_over(tmp_path / "y")


def test_a_killed_run_with_other_settings_makes_room(tmp_path):
    done = Manifest(tmp_path, 0)
    first = Crew(done, 0, 2, 60)
    assert first.join({"settings": "a", "model": "m"})
    done.add("done", "a.wav", [tmp_path / "a.dog.wav"], fingerprint="1")
    path = tmp_path / ".mlx-sam-audio/agreed.json"
    path.write_text(path.read_text().replace(str(os.getpid()), str(os.getppid())))
    later = time.time() + 10  # the second one joins what is renewed while it waits
    os.utime(path, (later, later))
    for rank in (0, 1):
        with pytest.raises(SAMAudioError, match="with another settings than"):
            Crew(Manifest(tmp_path, rank), rank, 2, 60).join({"settings": "b", "model": "m"})
    with pytest.raises(SAMAudioError, match="works in .* with others: wait until"):
        crew.settle(done, 60)
    os.utime(path, (0, 0))
    assert Crew(Manifest(tmp_path, 0), 0, 2, 60).join({"settings": "b", "model": "m"})
    assert rows(tmp_path / manifest.NAME) == [("done", "a.wav")]
    with pytest.raises(SAMAudioError, match="began something else"):
        list(first.turns([Job(Source(path, "x"), ())], print))


def test_without_a_common_folder_nobody_waits_for_ever(tmp_path):
    with pytest.warns(SAMAudioWarning, match="rank 0 never came to .*: is it the same folder"):
        assert not Crew(Manifest(tmp_path, 1), 1, 2, 0.1).join({})
    alone = Crew(Manifest(tmp_path, 0), 0, 2, 0.1)
    assert alone.join({})
    with pytest.warns(SAMAudioWarning, match="rank 1 never came to .*: is it the same folder"):
        alone.end(complete=True)
    assert not list(tmp_path.iterdir())
