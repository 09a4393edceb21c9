"""One recording by several processes: as by one, whoever dies or hangs, and on with any number."""

import os
import signal
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import ranks
import soundfile

from benchmarks import parity
from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.engine import group, solve
from mlx_sam_audio.engine.group import SINGLE, Group
from mlx_sam_audio.separate import main

# 17 windows, of which two meet at most: as many for each of two processes as are solved at once
SAMPLES = 16_000 + 16 * 12_800
WORDS = "long.wav -m demo -d bird --method euler --window 1 --overlap 0.2 --no-metrics".split()
COMMAND = [*ranks.SEPARATE, *WORDS]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    samples = np.random.default_rng(0).normal(0, 0.1, SAMPLES)
    soundfile.write(folder / "long.wav", samples, 16_000)
    return folder


@pytest.fixture
def desk(shared, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.wav").symlink_to(shared / "long.wav")
    return tmp_path


def stems(name: str) -> list[np.ndarray]:
    return [soundfile.read(f"{name}{end}.wav", dtype="float32")[0] for end in ("", ".residual")]


def test_two_processes_make_the_bits_of_one(desk):
    assert main([*WORDS, "--steps", "1", "-o", "one.wav"]) == 0
    said = ranks.launch(2, *COMMAND, "--steps", "1", "-o", "two.wav", "--metrics-json", "two.json")
    assert not said.stdout and "error" not in said.stderr, said
    assert Path("one.wav").read_bytes() == Path("two.wav").read_bytes()
    assert Path("one.residual.wav").read_bytes() == Path("two.residual.wav").read_bytes()
    names = {"long.wav", "two.json", "one.wav", "one.residual.wav", "two.wav", "two.residual.wav"}
    assert set(os.listdir()) == names


@pytest.mark.parametrize("words", [("-d", "beep"), ("-c", "2")], ids=["stems", "candidates"])
def test_rows_are_shared_where_there_is_one_window(desk, words, monkeypatch):
    soundfile.write("short.wav", soundfile.read("long.wav")[0][:12_000], 16_000)
    command = "short.wav -m demo -d bird --steps 2 --no-metrics --format wav".split() + [*words]
    with monkeypatch.context() as patch:  # batches as they are shared
        patch.setattr(solve.Field, "__init__", partialmethod(one_by_one, solve.Field.__init__))
        assert main([*command, "-o", "one/"]) == 0
    with ranks.started(2, *ranks.SEPARATE, *command, "-o", "two/") as both:
        assert [ranks.ended(rank)[::2] for rank in both] == [(0, "")] * 2
    names = sorted(os.listdir("one"))
    assert names == sorted(os.listdir("two")) and len(names) > 1
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def one_by_one(field, init, conditions, windows, voices, at_once, watch) -> None:
    init(field, conditions, windows, voices, 1, watch)


def test_it_ends_when_one_is_gone_and_any_number_goes_on(desk):
    assert main([*WORDS, "--steps", "6", "-o", "one.wav"]) == 0
    struck = (2, signal.SIGKILL), (3, signal.SIGSTOP), (2, signal.SIGINT)
    words = [*COMMAND, "--steps", "6", "-o", "two.wav", "--resume", "--lease", "3"]
    before = 0
    for count, number in struck:
        with ranks.started(count, *words) as (first, *_, last):
            until_saved(before)
            last.send_signal(number)
            status, _, said = ranks.ended(first)
            assert status == 75 and "; --resume goes on" in said, said
            assert "Traceback" not in said and not Path("two.wav").exists()
            if number == signal.SIGINT:
                status, _, said = ranks.ended(last)
                assert status == 130 and "stopped" in said
        before = saved()
    assert before
    assert main([*WORDS, "--steps", "6", "-o", "two.wav", "--resume"]) == 0
    for one, two in zip(stems("one"), stems("two"), strict=True):
        assert parity.relative_error(two, one) < 1e-4  # batches of three processes are others
    assert not list(Path().glob(".*"))


def saved() -> int:
    path = Path(".two.wav.resume")
    return path.stat().st_mtime_ns if path.exists() else 0


def until_saved(before: int) -> None:
    """Wait until a step is saved."""
    end = time.monotonic() + 60
    while saved() == before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_must_make_the_same(desk):
    each = (), ("--seed", "2")
    with ranks.started(2, *COMMAND, "--steps", "1", "-o", "two.wav", more=each) as both:
        for status, _, said in map(ranks.ended, both):
            assert status == 2
            assert "error: rank 1 has another setting than rank 0: make them the same" in said
    assert set(os.listdir()) == {"long.wav", "hosts.json"}


def test_one_alone_joins_nothing_and_says_what_stops_it(monkeypatch):
    assert SINGLE.joined((2,), lambda part: part.fill(3)).tolist() == [3, 3]
    first = Group(0, 2, None, 60, print)  # of a ring of one, which adds nothing
    assert first.of_first((1, 2), lambda: [1, 2]).tolist() == [[1, 2]]
    with pytest.raises(KeyboardInterrupt):
        first.joined((2,), stop)
    with pytest.raises(SAMAudioError, match="rank 1 has another version and another model than"):
        first.agree({"version": 1, "model": 2})


def test_nobody_waits_for_ever_for_those_that_never_come(desk, monkeypatch):
    monkeypatch.setattr(group, "MEETING", 1)
    Path("hosts.json").write_text('[["127.0.0.1:19990"], ["127.0.0.1:19991"]]')
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", "hosts.json")
    with pytest.raises(SAMAudioError, match="the 2 processes do not find each other"):
        group.joined_by_launch(60, print)
    monkeypatch.setattr(group, "OLDEST", (9, 0))
    with pytest.raises(SAMAudioError, match="several processes for one recording need MLX 9.0"):
        group.joined_by_launch(60, print)


def stop(part: np.ndarray) -> None:
    raise KeyboardInterrupt
