"""A server of several processes: the first serves, the others make jobs for it."""

import contextlib
import json
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from serving import Server, mixture

from mlx_sam_audio.command import claims
from mlx_sam_audio.loading.store import DEMO

JOB = {"description": "a bell", "steps": 1, "method": "euler"}
LONG = {**JOB, "steps": 200}


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path


@contextlib.contextmanager
def serving(home: Path, others: int = 1, lease: str = "2s", **environment: str):
    """A server, and the processes beside it, which have come."""
    options = ("--model", "demo", "--lease", lease, "--keep", home / "kept")
    server, beside = Server(*options, home=home, ranks=1 + others), []
    try:
        beside += [server.beside(rank + 1, **environment) for rank in range(others)]
        if not environment:
            until(lambda: server("GET", "/health").json["workers"] == 1 + others)
        yield server, beside
    finally:
        for process in beside:
            process.send_signal(signal.SIGCONT)
        server.process.kill()
        server.process.communicate()
        for process in beside:
            process.kill()
            process.communicate()
        server.log.close()


def until(told, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end
        time.sleep(0.02)


def log(home: Path) -> str:
    return (home / "log").read_text()


def at(server: Server, job: dict) -> dict:
    return server("GET", f"/v1/jobs/{job['id']}").json


def started(server: Server, *jobs: dict) -> None:
    until(lambda: all((at(server, job)["progress"] or {}).get("done") for job in jobs))


def elsewhere(home: Path) -> str | None:
    """The job that the second process is to make."""
    path = home / "kept/.mlx-sam-audio/1.task"
    return json.loads(path.read_text())["job"] if path.exists() else None


def test_jobs_are_made_side_by_side_as_by_one_process(home):
    with serving(home, others=2) as (server, beside):
        file = server.upload(mixture())
        jobs = [server.ask(file, **LONG) for _ in range(3)]
        started(server, *jobs)  # all at once
        assert {at(server, job)["status"] for job in jobs} == {"running"}
        for job in jobs:
            assert server("POST", f"/v1/jobs/{job['id']}/cancel").status == 200
        until(lambda: {at(server, job)["status"] for job in jobs} == {"cancelled"})
        jobs = [server.ask(file, **JOB, predict_spans=False) for _ in range(6)]
        done = [server.done(job) for job in jobs]
        sounds = [server.stem(job, "target") for job in done]
        assert all((sound == sounds[0]).all() for sound in sounds) and np.abs(sounds[0]).max() > 0
        assert len({json.dumps(job["stems"]["target"]["peak"]) for job in done}) == 1
        events = server.events(done[0])
        assert events[-1][1] == "done"
        metrics = server("GET", "/metrics").body.decode()
        assert 'jobs_total{status="done"} 6' in metrics and "evaluations_total 6" in metrics
        assert server.stop() == 0
        assert [process.wait(20) for process in beside] == [0, 0]
    assert not (home / "kept/.mlx-sam-audio").exists()
    assert "Traceback" not in log(home)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_of_one_that_is_gone_is_made_by_the_first(home, number):
    with serving(home) as (server, [second]):
        file = server.upload(mixture())
        second.send_signal(signal.SIGSTOP)  # before the first one misses it
        jobs = [server.ask(file, **JOB) for _ in range(3)]
        until(lambda: elsewhere(home))
        lost = elsewhere(home)
        second.send_signal(number)
        done = [server.done(job) for job in jobs]
        one, *others = (server.stem(job, "target") for job in done)
        assert all((one == other).all() for other in others)
        assert log(home).count(f"{lost} starts") == 2
        assert server("GET", "/health").json["workers"] == 1
        if number == signal.SIGSTOP:  # it wakes up, sees that, and works again
            second.send_signal(signal.SIGCONT)
            until(lambda: server("GET", "/health").json["workers"] == 2)
            assert at(server, done[0])["status"] == "done"
            both = [server.ask(file, **LONG) for _ in range(2)]
            started(server, *both)
        assert server.stop() == 0


def test_when_the_server_is_gone_the_others_say_so_and_its_jobs_are_there_again(home):
    with serving(home) as (server, [second]):
        file = server.upload(mixture())
        jobs = [server.ask(file, **LONG) for _ in range(3)]
        started(server, *jobs[:2])
        server.process.kill()
        assert second.wait(20) == 75
        assert f"error: the server in {home / 'kept'} is gone" in log(home)
    with serving(home) as (server, [second]):
        until(lambda: at(server, jobs[2])["status"] == "running")
        assert [at(server, job)["error"]["code"] for job in jobs[:2]] == ["stopped"] * 2
        assert server.stop() == 0 and second.wait(20) == 0


def test_another_model_is_a_sentence_and_no_wrong_sound(home, tmp_path):
    """Jobs of it go to the others, in their order."""
    demo = shutil.copytree(DEMO, home / "store/small")
    other = shutil.copytree(demo, tmp_path / "another/small")
    (other / "manifest.json").write_text((demo / "manifest.json").read_text() + "\n")
    with serving(home, others=2) as (server, [second, _]):
        second.kill()
        second.wait()
        third = server.beside(1, SAM_AUDIO_HOME=str(tmp_path / "another"))
        claim = home / "kept/.mlx-sam-audio/1.claim"
        until(lambda: claims.told(claim).get("process") == third.pid)
        file = server.upload(mixture())
        jobs = [server.ask(file, **JOB, model="small") for _ in range(6)]
        done = [server.done(job) for job in jobs]
        starts = [job["started"] for job in done]
        assert sum(a > b for a, b in pairwise(starts)) <= 1  # of the one that rank 1 refused
        both = [server.ask(file, **LONG) for _ in range(3)]  # the demo is the same
        started(server, *both)
        third.kill()
        third.communicate()
    said = "its small, or what is needed beside it, is not rank 0's: make all models the same"
    assert len(re.findall(f"failed at rank 1, another one tries: {said}", log(home))) == 1


def test_another_version_is_refused(home):
    fake = home / "fake"
    fake.mkdir()
    (fake / "sitecustomize.py").write_text("import mlx_sam_audio\nmlx_sam_audio.__version__ = '9'")
    paths = f"{fake}:{Path(__file__).parents[1]}"
    with serving(home, PYTHONPATH=paths) as (server, [second]):
        assert second.wait(30) == 2
        assert "error: rank 1 has another version than rank 0: make them the same" in log(home)
        assert server("GET", "/health").json["workers"] == 1


def test_several_need_one_folder_and_a_server(home, tmp_path, monkeypatch, capsys):
    from mlx_sam_audio.server import main

    (tmp_path / "hosts").write_text(json.dumps([["127.0.0.1:1"]] * 2))
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    monkeypatch.setenv("MLX_RANK", "1")
    assert main([]) == 2
    assert "give --keep one that all see" in capsys.readouterr().err
    stale = tmp_path / "kept/.mlx-sam-audio/server.claim"
    stale.parent.mkdir(parents=True)
    claims.take(stale)  # of a server that was killed
    assert main(["--keep", str(tmp_path / "kept"), "--lease", "1s"]) == 2
    assert "error: rank 0 never came to" in capsys.readouterr().err


def test_jobs_that_are_deleted_while_another_process_makes_them(home):
    with serving(home, lease="20s") as (server, [second]):
        file = server.upload(mixture())
        for _ in range(2):
            jobs = [server.ask(file, **LONG) for _ in range(2)]
            started(server, *jobs)
            for job in jobs:
                assert server("DELETE", f"/v1/jobs/{job['id']}").status == 204
            until(lambda: server("GET", "/health").json["running"] is None)
        until(lambda: not list((home / "kept/jobs").iterdir()))
        done = server.done(server.ask(file, **JOB))
        assert done["status"] == "done" and server("GET", "/health").json["workers"] == 2
        assert second.poll() is None and "Traceback" not in log(home)


def test_a_task_that_cannot_be_read_for_a_moment(home):
    with serving(home, lease="20s") as (server, _):
        jobs = [server.ask(server.upload(mixture()), **LONG) for _ in range(2)]
        started(server, *jobs)
        task = home / "kept/.mlx-sam-audio/1.task"
        (job,) = [job for job in jobs if job["id"] == elsewhere(home)]
        task.rename(task.with_suffix(".away"))
        time.sleep(1)
        task.with_suffix(".away").rename(task)
        time.sleep(1)
        before = at(server, job)
        until(lambda: at(server, job) != before or before["status"] == "done")
        for job in jobs:
            server("POST", f"/v1/jobs/{job['id']}/cancel")
        until(lambda: server("GET", "/health").json["running"] is None)


def test_a_process_that_slept_through_a_restart_is_no_worker_of_the_next_server(home):
    with serving(home, lease="20s") as (server, [second]):
        second.send_signal(signal.SIGSTOP)
        server.process.kill()
        server.process.wait()
        with serving(home, lease="20s"):
            second.send_signal(signal.SIGCONT)
            assert second.wait(20) == 0
            claim = claims.told(home / "kept/.mlx-sam-audio/1.claim")
            assert claim and claim["process"] != second.pid
