"""The server, asked over loopback as its clients ask it. No test needs the network: a server that
touched anything but loopback would say so in a file that is looked at in the end."""

import base64
import concurrent.futures
import contextlib
import io
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import fields
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from clips import clip
from serving import RATE, ROOT, TOKEN, Server, mixture, wav

from convert.command import convert
from mlx_sam_audio import SAMAudio, Settings, Span
from mlx_sam_audio.media import spectrogram

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")


def form(data: bytes | None, name="sound.wav", **values) -> dict:
    """A multipart form as browsers send it."""
    parts = [f'name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in values.items()]
    if data is not None:
        head = f'name="file"; filename="{name}"\r\nContent-Type: audio/wav\r\n\r\n'.encode()
        parts.insert(0, head + data + b"\r\n")
    rows = [b"--limit\r\nContent-Disposition: form-data; " + part for part in parts]
    kind = "multipart/form-data; boundary=limit"
    return dict(body=b"".join(rows) + b"--limit--\r\n", Content_Type=kind)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Of all servers here: their store of models, with tiny ones at 8 kHz, and their folders."""
    home = tmp_path_factory.mktemp("home")
    for golden, name in {"tiny": "small", "pe_a_frame": "pe-a-frame-large"}.items():
        source = shutil.copytree(ROOT / "tests/golden" / golden, home / "originals" / golden)
        config = source / "config.json"
        config.write_text(config.read_text().replace("48000", "8000"))
        if golden == "pe_a_frame":  # for latents as narrow as tiny's
            from safetensors.numpy import load_file, save_file

            config.write_text(re.sub('("codebook_dim"): 16', r"\1: 8", config.read_text()))
            weights = load_file(source / "model.safetensors")
            weights["audio_model.data_proj.weight"] = np.zeros((64, 8), np.float32)
            save_file(weights, source / "model.safetensors")
        convert(str(source), home / "store" / name)
    return home


def folders(home: Path) -> set[Path]:
    """The temporary ones of servers."""
    return set((home / "tmp").glob("mlx-sam-audio*"))


@pytest.fixture(scope="module")
def server(home):
    server = Server("--model", "demo", "--max-queue", 30, "--max-seconds", "20s", home=home)
    yield server
    assert server.stop() == 0
    assert not folders(home)
    assert not server.touched.exists()
    assert "Traceback" not in (home / "log").read_text()


@pytest.fixture(scope="module")
def strict(home):
    """With a token, and little of everything."""
    options = ["--token", TOKEN, "--max-queue", 1, "--max-upload", "100KB", "--max-seconds", "2s"]
    options += ["--allow-host", "sounds.test", "--allow-origin", "https://page.test", "--no-ui"]
    server = Server(*options, "--model", "demo", home=home)
    yield server
    assert server.stop(signal.SIGINT) == 0


@pytest.fixture(scope="module")
def file(server) -> dict:
    return server.upload(mixture())


@pytest.fixture(scope="module")
def job(server, file) -> dict:
    return server.done(server.ask(file, description="a bird", title="birds"))


@pytest.fixture(scope="module")
def model() -> SAMAudio:
    return SAMAudio.from_pretrained("demo")


# what is there


def test_health_and_models(server):
    health = server("GET", "/health").json
    assert health["status"] == "ok" and health["queue"] == 0
    told = server("GET", "/v1/models").json
    assert told["object"] == "list" and told["default"] == "demo"
    rows = {row["id"]: row for row in told["data"]}
    assert set(rows) == {"demo", "small"}  # not the span predictor, which separates nothing
    assert rows["demo"]["bundled"] and "bird" in rows["demo"]["sounds"] and rows["demo"]["fits"]
    assert not rows["demo"]["vision"] and not rows["demo"]["spans"]
    assert rows["small"]["vision"] and rows["small"]["spans"] and rows["small"]["sounds"] is None


def test_the_page_and_its_policy(server, strict):
    web = resources.files("mlx_sam_audio.serve") / "web"
    answer = server("GET", "/openapi.json")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "script-src" not in policy and "unsafe-eval" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    if (web / "index.html").is_file():
        assert server("GET", "/").headers["content-type"].startswith("text/html")
        assert server("GET", "/").headers["cache-control"] == "no-cache"
    assert server("GET", "/web/../../app.py").status == 404
    assert server("GET", "/web/%2e%2e/app.py").status == 404
    assert strict("GET", "/").status == 404


def test_metrics(server, job):
    text = server("GET", "/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(values['sam_audio_jobs_total{status="done"}']) >= 1
    assert float(values["sam_audio_audio_seconds_total"]) >= 1
    assert float(values['sam_audio_stage_seconds_total{stage="solve"}']) > 0
    assert float(values["sam_audio_peak_memory_bytes"]) > 1e6


# files


def test_a_file_as_a_body_and_in_a_form(server):
    data = wav(mixture())
    raw = server("POST", "/v1/files?name=../../etc/dog.wav", data)
    assert raw.status == 201 and raw.headers["location"] == f"/v1/files/{raw.json['id']}"
    sent = server("POST", "/v1/files", **form(data, "C:/a/ö %22b.wav", other="1"))
    assert sent.status == 201
    told = {"bytes": len(data), "seconds": 1.0, "sample_rate": RATE, "channels": 1}
    for answer, name in ((raw.json, "dog.wav"), (sent.json, "ö %22b.wav")):
        assert {**told, "video": None}.items() <= answer.items()
        assert re.fullmatch("f_[0-9a-f]{32}", answer["id"])
        assert answer["expires"] == pytest.approx(answer["created"] + 86400)
        assert answer["name"] == name
        assert answer in server("GET", "/v1/files").json["data"]
        at = f"/v1/files/{answer['id']}"
        assert server("GET", at).json == answer
        content = server("GET", f"{at}/content")
        assert content.body == data and content.headers["content-type"] == "audio/wav"
        part = server("GET", f"{at}/content", Range="bytes=10-19")
        assert part.status == 206 and part.body == data[10:20]
        assert server("DELETE", at).status == 204
        assert server("GET", at).status == server("DELETE", at).status == 404


def test_the_example(server):
    answer = server("POST", "/v1/files/example")
    assert answer.status == 201 and answer.json["seconds"] == 4 and answer.json["description"]
    server.done(server.ask(answer.json, description=answer.json["description"]))


@pytest.mark.parametrize(
    "data, sentence",
    [
        (b"", "is empty"),
        (b"<html><script>alert(1)</script>", "cannot read"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot read"),
        (wav(np.full(100, np.nan)), "NaN"),
        (wav(np.full(100, 1e6)), "full scale"),
        (wav([])[:60], "cannot read"),
    ],
)
def test_what_is_no_recording_is_refused(server, data, sentence):
    before = server("GET", "/v1/files").json
    for sent in (dict(body=data), form(data, "odd.wav")):
        answer = server("POST", "/v1/files?name=odd.wav", **sent)
        assert answer.status == 400 and sentence in answer.error["message"]
        assert answer.error["param"] == "file" and "/tmp" not in answer.error["message"]
        assert "odd.wav" in answer.error["message"]
    assert server("GET", "/v1/files").json == before


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[:-20],
        lambda body: body.replace(b"--limit", b"--other"),
        lambda body: body.replace(b'name="file"', b'name="sound"'),
        lambda body: body.replace(b"; filename", b"; nothing"),
        lambda body: body.replace(b"--limit--", b'--limit\r\nContent-Disposition: form-data; '
                                  b'name="file"; filename="b"\r\n\r\nx\r\n--limit--'),
    ],
)  # fmt: skip
def test_damaged_forms_are_refused(server, change):
    sent = form(wav(mixture()))
    answer = server("POST", "/v1/files", **{**sent, "body": change(sent["body"])})
    assert answer.status in (400, 413, 422) and answer.error["message"]


def test_lanes_of_any_file(server, tmp_path):
    """Of what cannot be read from any sample on, too."""
    stereo = np.stack([mixture(1, 2.0), mixture(2, 2.0)], axis=1)
    for suffix in ("wav", "flac", "mp3"):
        path = tmp_path / f"sound.{suffix}"
        soundfile.write(path, stereo, RATE)
        file = server("POST", f"/v1/files?name={path.name}", path.read_bytes()).json
        at = f"/v1/files/{file['id']}"
        assert file["channels"] == 2 and file["seconds"] == pytest.approx(2, abs=0.1)
        pcm = server("GET", f"{at}/pcm?from=0.5&to=1")
        told = {name[2:]: float(value) for name, value in pcm.headers.items() if name[:2] == "x-"
                and name != "x-content-type-options"}  # fmt: skip
        samples = round(file["seconds"] * RATE)
        assert told == dict(rate=RATE, channels=2, start=RATE / 2, samples=samples)
        got = np.frombuffer(pcm.body, "<f4").reshape(-1, 2)
        assert np.abs(got - stereo[RATE // 2 : RATE]).max() < (0.2 if suffix == "mp3" else 1e-4)
        peaks = server("GET", f"{at}/peaks?points=100&from=0.5&to=1").json
        mean = got.mean(axis=1).reshape(100, -1)
        assert peaks["points"] == 100 and peaks["from"] == 0.5 and peaks["to"] == 1
        assert np.abs(np.array(peaks["min"]) - mean.min(axis=1)).max() < 1e-4
        assert np.abs(np.array(peaks["max"]) - mean.max(axis=1)).max() < 1e-4
        whole = server("GET", f"{at}/peaks?points=7").json
        assert max(max(whole["max"]), -min(whole["min"])) == pytest.approx(whole["peak"], abs=1e-4)


def test_peaks_of_long_parts_are_made_of_steps(server, file):
    long = server("GET", f"/v1/files/{file['id']}/peaks?points=9").json
    short = server("GET", f"/v1/files/{file['id']}/peaks?points=90").json
    assert max(long["max"]) == max(short["max"]) and min(long["min"]) == min(short["min"])


def test_spectrograms_are_as_the_commands(server, file):
    at = f"/v1/files/{file['id']}/spectrogram"
    answer = server("GET", f"{at}?columns=25")
    columns, bins = (int(answer.headers[f"x-{name}"]) for name in ("columns", "bins"))
    got = np.frombuffer(answer.body, np.uint8).reshape(columns, bins)
    levels = spectrogram.decibels([mixture()], RATE, RATE)
    assert bins == levels.shape[1] and columns == 25
    assert float(answer.headers["x-nyquist"]) == RATE / 2
    top = float(answer.headers["x-top"])
    assert top == pytest.approx(levels.max(), abs=1)
    late = spectrogram.decibels([np.pad(mixture(), (64, 0))], RATE, RATE)  # a hop is 128 samples
    middles = late[3::5][:25]  # 320 + 640 i
    wanted = np.clip((middles - top + 80) / 80 * 255, 0, 255)
    assert np.abs(got - wanted).max() < 1
    fixed = server("GET", f"{at}?columns=25&top={top + 80}")
    assert float(fixed.headers["x-top"]) == pytest.approx(top + 80) and not max(fixed.body)


@pytest.mark.parametrize(
    "query", ["peaks?points=0", "peaks?points=1e9", "peaks?points=x", "peaks?from=5", "pcm?from=-1",
              "pcm?from=nan", "pcm?from=0.5&to=0.4", "spectrogram?columns=0.5",
              "spectrogram?top=inf", "frame?t=0"]
)  # fmt: skip
def test_odd_ranges_are_refused(server, file, query):
    answer = server("GET", f"/v1/files/{file['id']}/{query}")
    assert answer.status == 400 and answer.error["message"]


# jobs


def test_a_job_from_start_to_end(server, file):
    job = server.ask(file, description="a bird", seed=3, spans=[["+", 0.25, 0.75]])
    assert job["status"] in ("queued", "running") and job["stems"] == {}
    (_, first, told), *more, (last, event, done) = server.events(job)
    assert first == "state" and told["id"] == job["id"] and event == "done" and last == "end"
    progress = [data for _, event, data in more if event == "progress"]
    assert {"encode", "solve", "decode"} & {data["stage"] for data in progress}
    fractions = [data["fraction"] for data in progress]
    assert fractions == sorted(fractions) and fractions[-1] <= 1
    assert server("GET", f"/v1/jobs/{job['id']}").json == done
    assert done["spans"] == [["+", 0.25, 0.75]] and not done["predicted"] and done["seconds"] == 1
    assert done["started"] <= done["finished"] and done["error"] is None
    assert set(done["stems"]) == {"mixture", "target", "residual"}
    assert done["stems"]["target"]["description"] == "a bird"
    again = server.done(server("POST", "/v1/jobs", done["request"]).json)
    assert again["request"] == done["request"]
    for name, stem in done["stems"].items():
        samples = server.stem(done, name)
        assert len(samples) == RATE and np.abs(samples).max() == pytest.approx(stem["peak"])
        assert np.array_equal(samples, server.stem(again, name))
    assert np.array_equal(server.stem(done, "mixture"), mixture())
    report = server("GET", done["report"]).json
    assert report["description"] == "a bird" and report["seed"] == 3 and report["model"] == "demo"
    assert report["input"] == "sound.wav" and report["target"] == "target.wav"
    assert server("GET", done["labels"]).body == b"0.250000\t0.750000\ta bird\n"


def test_forms_of_stems(server, job):
    url = job["stems"]["target"]["url"]
    flac = server("GET", f"{url}.flac?download=1")
    assert "attachment" in flac.headers["content-disposition"]
    assert "sound.a-bird.flac" in flac.headers["content-disposition"]
    samples, rate = soundfile.read(io.BytesIO(flac.body), dtype="float32")
    assert rate == RATE and np.abs(samples - server.stem(job, "target")).max() < 1e-6
    part = server("GET", f"{url}.wav", Range="bytes=0-3")
    assert part.status == 206 and part.body == b"RIFF"
    assert server("GET", f"{url}.mp4").error["code"] == "no_video"
    assert server("GET", f"{url}.mp3").status == 404
    assert server("GET", f"{url}-9.wav").status == 404
    assert server("GET", f"{url}/peaks?points=3").json["points"] == 3
    assert len(server("GET", f"{url}/pcm?to=0.5").body) == 2 * RATE
    assert server("GET", f"{url}/spectrogram").status == 200
    with zipfile.ZipFile(io.BytesIO(server("GET", job["zip"]).body)) as file:
        names = {"sound.mixture.wav", "sound.a-bird.wav", "sound.without-a-bird.wav"}
        assert set(file.namelist()) == names | {"report.json", "labels.txt"}


def test_chains_and_several_prompts(server, job, model, tmp_path):
    chain = server.ask(input={"job": job["id"], "stem": "residual"}, description="a bell", steps=1)
    assert chain["request"]["residual"] == "subtract" and chain["input"]["name"] == "sound.wav"
    chain = server.done(chain)
    assert np.array_equal(server.stem(chain, "mixture"), server.stem(job, "residual"))
    adds = server.stem(chain, "target") + server.stem(chain, "residual")
    assert np.abs(adds - server.stem(chain, "mixture")).max() < 1e-6
    both = server.ask(
        input={"job": job["id"], "stem": "mixture"},
        descriptions=["a bird", "a bell"], spans=[[["+", 0, 0.5]], []], steps=1,
    )  # fmt: skip
    both = server.done(both)
    assert list(both["stems"]) == ["mixture", "target-0", "target-1", "residual"]
    assert both["spans"] == [[["+", 0, 0.5]], []] and len(both["absent"]) == 2
    soundfile.write(tmp_path / "mix.wav", mixture(), RATE, subtype="FLOAT")
    spans = [[Span("+", 0, 0.5)], []]
    stems = model.stems(tmp_path / "mix.wav", ["a bird", "a bell"], spans=spans, steps=1)
    assert np.array_equal(server.stem(both, "target-1"), np.array(stems[1].target))
    assert np.array_equal(server.stem(both, "residual"), np.array(stems.rest))


def test_stereo_stays_stereo(server):
    file = server.upload(np.stack([mixture(1), mixture(2)], axis=1))
    job = server.ask(file, description="a bell")
    assert job["request"]["stereo"] == "both" and job["request"]["residual"] == "share"
    assert server.done(job)["channels"] == 2
    assert server.stem(server.done(job), "target").shape == (RATE, 2)
    job = server.ask(file, description="a bell", residual="subtract")
    assert job["request"]["residual"] == "share" and "add up" in job["notes"][0]
    server("DELETE", f"/v1/jobs/{job['id']}")


def test_titles_lists_and_removal(server, file, job):
    mine = server.done(server.ask(file, description="a drum"))
    at = f"/v1/jobs/{mine['id']}"
    assert server("PATCH", at, {"title": "drüm"}).json["title"] == "drüm"
    listed = [one["id"] for one in server("GET", "/v1/jobs").json["data"]]
    assert listed.index(mine["id"]) < listed.index(job["id"])
    for bad in ({"title": 3}, {"title": "x" * 300}, {"name": "x"}):
        assert server("PATCH", at, bad).status == 400
    assert server("DELETE", at).status == 204
    for path in (at, f"{at}/stems/target.wav", f"{at}/events", mine["report"], mine["zip"]):
        assert server("GET", path).status == 404


def test_a_file_may_go_before_its_job(server):
    file = server.upload(mixture(4))
    first, second = (server.ask(file, description="a bird", seed=seed) for seed in (1, 2))
    assert server("DELETE", f"/v1/files/{file['id']}").status == 204
    assert server.done(first) and server.done(second)


def test_events_say_where_they_are(server, job):
    (_, first, _), (last, event, told) = server.events(job)
    assert (first, event, last) == ("state", "done", "end") and told == job
    assert server("GET", f"/v1/jobs/{job['id']}/events", Last_Event_ID="end").status == 204
    assert server.events(job, Last_Event_ID="2")[-1][1] == "done"


BAD = [  # what is asked, the field that is blamed, part of the sentence
    (dict(description=""), "description", "the prompt is empty"),
    (dict(description="a violin"), "description", "does not know 'violin'"),
    (dict(description=3), "description", "a text"),
    (dict(descriptions=[]), "descriptions", "1 to 32"),
    (dict(description="a bird", descriptions=["a bell"]), "description", "not both"),
    (dict(descriptions=["a bird", ""]), "descriptions", "the prompt is empty"),
    (dict(spans=[["+", 0.5, 9]]), "spans", "which lasts 1.000 s"),
    (dict(spans=[["*", 0, 0.5]]), "spans", "sign"),
    (dict(spans=[["+", 0.5, 0.2]]), "spans", "before its end"),
    (dict(spans=[["+", 0.5]]), "spans", "start, end"),
    (dict(spans="+0:1"), "spans", "list"),
    (dict(spans=[["+", 0.5001, 0.5002]]), "spans", "between two frames"),
    (dict(descriptions=["a bird", "a bell"], spans=[[]]), "spans", "each of 2"),
    (dict(box=[0, 0, 5, 5]), "box", "no video"),
    (dict(steps=0), "steps", "1 to 10000"),
    (dict(steps=2, quality="fast"), "quality", "give one of them"),
    (dict(quality="worst"), "quality", "fast, balanced, best"),
    (dict(method="magic"), "method", "magic"),
    (dict(seed=-1), "seed", "from 0"),
    (dict(seed=True), "seed", "whole number"),
    (dict(window=0.001, overlap=0), None, "receptive field"),
    (dict(overlap=-1), "overlap", "0 or more"),
    (dict(candidates=65), "candidates", "1 to 64"),
    (dict(candidates=2, ranker="judge"), "ranker", "not installed"),
    (dict(candidates=2, ranker="activity"), "ranker", '"+" spans'),
    (dict(ranker="../../etc"), "ranker", "there is no ranker"),
    (dict(stereo="quad"), "stereo", "mono, mid, both"),
    (dict(residual="gone"), "residual", "model, subtract"),
    (dict(gate=1), "gate", "True or False"),
    (dict(predict_spans=True), "predict_spans", "no span predictor"),
    (dict(predict_spans="yes"), "predict_spans", "true or false"),
    (dict(max_memory=1000), None, "this needs"),
    (dict(noise=[1]), "noise", "no field"),
    (dict(message=[1]), "message", "no field"),
    (dict(sttings=1), "sttings", "no field"),
    (dict(title=["x"]), "title", "a title"),
    (dict(kind="dance"), "kind", "separate or spans"),
    (dict(kind="spans"), "predict_spans", "no span predictor"),
    (dict(kind="spans", steps=3), "steps", "no field"),
    (dict(input="sound.wav"), "input", "the input is"),
    (dict(input={"file": 3, "job": 4}), "input", "the input is"),
]


@pytest.mark.parametrize("values, param, sentence", BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_done_is_refused_at_once(server, file, values, param, sentence):
    described = {} if {"description", "descriptions"} & values.keys() else {"description": "a bird"}
    values = {"input": {"file": file["id"]}, **described, **values}
    answer = server("POST", "/v1/jobs", values)
    assert answer.status == 400, answer.body
    assert sentence in answer.error["message"] and answer.error["param"] == param
    assert answer.error["type"] == "invalid_request_error"


def test_what_is_not_there_is_not_found(server, file, job):
    for given in ({"file": "f_" + "0" * 32}, {"file": "../../etc/passwd"}, {"file": 3},
                  {"job": "j_" + "0" * 32, "stem": "target"},
                  {"job": job["id"], "stem": "../job"}, {"job": job["id"], "stem": 5}):  # fmt: skip
        answer = server("POST", "/v1/jobs", {"input": given, "description": "a bird"})
        assert answer.status == 404, given
    for name in ("large", "../store/small", "/etc", "facebook/sam-audio-large", "pe-a-frame-large"):
        values = {"input": {"file": file["id"]}, "description": "a bird", "model": name}
        answer = server("POST", "/v1/jobs", values)
        assert answer.status == 404 and answer.error["code"] == "no_model"
        assert "demo" in answer.error["message"] or "small" in answer.error["message"]
    for path in ("/v1", "/v1/files/x", "/v1/jobs/f_" + "0" * 32, "/v1/jobs/..%2f", "/etc/passwd"):
        assert server("GET", path).error["code"] == "not_found"
    assert server("PUT", "/v1/jobs").status == 405
    waits = server.ask(server.upload(mixture(0, 10.0)), description="a bird", steps=50)
    early = server("GET", f"/v1/jobs/{waits['id']}/stems/target.wav")
    assert early.status == server("GET", waits["zip"]).status == 409
    chain = {"input": {"job": waits["id"], "stem": "target"}, "description": "a bird"}
    assert server("POST", "/v1/jobs", chain).status == 409
    assert server("DELETE", f"/v1/jobs/{waits['id']}").status == 204


# one worker, many clients


def test_cancel_ends_within_an_evaluation(server):
    job = server.ask(server.upload(mixture(0, 10.0)), description="a bird", steps=200)
    at, seen = f"/v1/jobs/{job['id']}", []
    while not (told := server("GET", at).json["progress"]) or told["stage"] != "solve":
        time.sleep(0.05)
    waits = server.ask(server.upload(mixture()), description="a bird")
    assert waits["position"] == 1
    assert server("POST", f"/v1/jobs/{waits['id']}/cancel").json["status"] == "cancelled"
    timer = threading.Timer(1.0, server, ["POST", f"{at}/cancel"])
    timer.start()
    for _, event, data in server.events(job):
        seen.append((event, data))
    timer.join()
    stopped = [data["done"] for event, data in seen if event == "progress"][-1]
    assert seen[-1][0] == "cancelled" and stopped < 100
    assert seen[-1][1]["stems"] == {} and seen[-1][1]["progress"] is None
    took = seen[-1][1]["finished"] - seen[-1][1]["started"]
    assert took < 20
    assert server("POST", f"{at}/cancel").json["status"] == "cancelled"
    assert server("GET", "/health").json["running"] is None


def test_twenty_jobs_of_ten_clients(server, model, tmp_path):
    """All are done, in the order in which they came, and each is what was asked for."""
    words = ["a bird", "a bell", "a drum", "a siren", "a whistle"]
    asked = [(word, seed) for word in words for seed in (0, 1)]
    files = [server.upload(mixture(i), f"{i}.wav") for i in range(10)]

    def client(i: int) -> list[dict]:
        word, seed = asked[i]
        jobs = [server.ask(files[i], description=word, seed=seed) for _ in range(2)]
        return [server.done(job) for job in jobs]

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        found = list(pool.map(client, range(10)))
    jobs = sorted((job for pair in found for job in pair), key=lambda job: job["created"])
    assert len({job["id"] for job in jobs}) == 20
    starts = [job["started"] for job in jobs]
    assert starts == sorted(starts)
    ends = [job["finished"] for job in jobs]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    for i, pair in enumerate(found):
        soundfile.write(tmp_path / f"{i}.wav", mixture(i), RATE, subtype="FLOAT")
        word, seed = asked[i]
        own = model.separate_long(tmp_path / f"{i}.wav", word, seed=seed, steps=1)
        for job in pair:
            assert job["input"]["name"] == f"{i}.wav" and job["request"]["description"] == word
            assert np.array_equal(server.stem(job, "target"), np.array(own.target))
            assert np.array_equal(server.stem(job, "residual"), np.array(own.residual))


def test_a_full_queue_says_when(strict):
    file = strict.upload(mixture())
    asked = {"input": {"file": file["id"]}, "description": "a bird", "steps": 300}
    jobs = [strict("POST", "/v1/jobs", asked) for _ in range(4)]
    assert {answer.status for answer in jobs} == {202, 429}
    full = next(answer for answer in jobs if answer.status == 429)
    assert int(full.headers["retry-after"]) >= 1 and full.error["code"] == "queue_full"
    small = form(wav(mixture()), model="demo", description="a bird")
    assert strict("POST", "/v1/audio/separations", **small).status == 429
    for answer in jobs:
        if answer.status == 202:
            assert strict("DELETE", f"/v1/jobs/{answer.json['id']}").status == 204


def test_a_closed_connection_leaves_a_job_alone(server, file):
    job = server.ask(file, description="a bird", steps=3)
    with contextlib.closing(server.connection()) as connection:
        connection.request("GET", f"/v1/jobs/{job['id']}/events")
        connection.getresponse().read(10)
    assert server.done(job)


# spans, videos: with models that know nothing, but take all


def test_predicted_spans(server, file):
    found = server.ask(
        input={"file": file["id"]}, kind="spans", model="small", description="any words"
    )
    assert "spans" not in found["request"]
    found = server.done(found)
    assert found["predicted"] and found["stems"] == {} and found["kind"] == "spans"
    several = server.done(
        server.ask(input={"file": file["id"]}, kind="spans", model="small", descriptions=["a", "b"])
    )
    assert len(several["spans"]) == 2
    assert server("GET", found["report"]).json["spans"] == [found["spans"]]
    job = server.ask(file, model="small", description="any words", predict_spans=True)
    events = server.events(job)
    assert events[-1][1] == "done" and events[-1][2]["predicted"]
    assert events[-1][2]["spans"] == found["spans"]
    if found["spans"]:
        assert [data["spans"] for _, event, data in events if event == "spans"] == [found["spans"]]


def test_videos(server, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    path = clip(tmp_path / "clip.mp4", sound=noise, size=(64, 48), pix_fmt="yuv420p")
    file = server("POST", "/v1/files?name=clip.mp4", path.read_bytes()).json
    assert file["video"] == {"width": 64, "height": 48}
    at = f"/v1/files/{file['id']}"
    assert server("GET", f"{at}/content").headers["content-type"] == "video/mp4"
    frame = server("GET", f"{at}/frame?t=0.4")
    assert frame.headers["content-type"] == "image/png"
    import av

    with av.open(io.BytesIO(frame.body)) as picture:
        pixels = next(picture.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape == (48, 64, 3) and abs(int(pixels[-1, -1, 0]) - 80) < 6
    for box, sentence in (([0, 0, 65, 5], "inside the frame"), ([5, 5, 5, 9], "whole pixels"),
                          ([0, 0, 5], "whole pixels"), (["0", 0, 5, 5], "pixels")):  # fmt: skip
        values = {"input": {"file": file["id"]}, "model": "small", "box": box}
        assert sentence in server("POST", "/v1/jobs", values).error["message"]
    blind = {"input": {"file": file["id"]}, "box": [0, 0, 9, 9], "description": "a bird"}
    assert "no vision encoder" in server("POST", "/v1/jobs", blind).error["message"]
    job = server.done(server.ask(file, model="small", box=[4, 4, 30, 30]))
    assert job["video"] and job["request"]["box"] == [4, 4, 30, 30]
    film = server("GET", f"{job['stems']['target']['url']}.mp4")
    assert film.status == 200 and film.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(film.body)) as copy:
        assert copy.streams.video[0].width == 64 and copy.streams.audio[0].codec.name == "aac"
    chained = {"input": {"job": job["id"], "stem": "residual"}, "model": "small"}
    chain = server.done(server.ask(**chained, description="b", box=[0, 0, 9, 9], steps=1))
    assert server("GET", f"{chain['stems']['residual']['url']}.mp4").status == 200


# mlx-audio's route


def test_what_mlx_audio_sends(server, home, model, tmp_path):
    """Its page's FormData, field by field."""
    data = wav(mixture())
    sent = form(data, "blob.wav", model="demo", description="a bird", method="midpoint", steps=2)
    answer = server("POST", "/v1/audio/separations", **sent)
    assert answer.status == 200 and set(answer.json) == {"target", "residual", "sample_rate"}
    assert answer.json["sample_rate"] == RATE
    (tmp_path / "mix.wav").write_bytes(data)
    own = model.separate_long(tmp_path / "mix.wav", "a bird", method="midpoint", steps=2)
    for name in ("target", "residual"):
        out = io.BytesIO(base64.b64decode(answer.json[name]))
        assert soundfile.SoundFile(out).subtype == "PCM_16"
        out.seek(0)
        samples = soundfile.read(out, dtype="float32")[0]
        assert np.abs(samples - np.array(getattr(own, name))).max() < 1e-4
    names = [one["input"]["name"] for one in server("GET", "/v1/jobs").json["data"]]
    assert "blob.wav" not in names


def test_mlx_audios_defaults_and_our_more(server):
    data = wav(mixture())
    none = server("POST", "/v1/audio/separations", **form(data))
    assert none.status == 404 and "large" in none.json["detail"]
    empty = server("POST", "/v1/audio/separations", **form(None, model="demo"))
    assert empty.status == 422 and empty.json["detail"][0]["loc"] == ["body", "file"]
    for field in (dict(steps="x"), dict(seed="-1"), dict(response_format="mp3"),
                  dict(spans="[[0"), dict(spans='[["+",0,9]]'), dict(quality="x")):  # fmt: skip
        bad = form(data, model="demo", description="a bird", **field)
        answer = server("POST", "/v1/audio/separations", **bad)
        assert answer.status == 400 and answer.json["detail"] == answer.error["message"]
    more = dict(model="demo", description="a bird", steps=1, method="euler", seed=4)
    more |= dict(spans='[["+", 0, 0.5]]', subtract="true", unknown="x")
    answer = server("POST", "/v1/audio/separations", **form(data, response_format="wav", **more))
    assert answer.status == 200 and answer.headers["content-type"] == "audio/wav"
    stems = json.loads(answer.headers["x-audio-stems"])
    assert stems["residual"] in answer.headers["link"]
    target, rest = (
        soundfile.read(io.BytesIO(server("GET", stems[name]).body), dtype="float32")[0]
        for name in ("target", "residual")
    )
    assert np.abs(target + rest - mixture()).max() < 1e-6
    zipped = server("POST", "/v1/audio/separations", **form(data, response_format="zip", **more))
    assert zipfile.is_zipfile(io.BytesIO(zipped.body))


def test_models_by_mlx_audios_names(server):
    sent = form(wav(mixture()), model="mlx-community/sam-audio-small-fp16", steps=1)
    assert server("POST", "/v1/audio/separations", **sent).status == 200


def test_a_disconnect_cancels_what_waits_for_an_answer(server):
    sent = form(wav(mixture(0, 10.0)), model="demo", description="a bird", steps=300)
    before = {one["id"] for one in server("GET", "/v1/jobs").json["data"]}
    connection = server.connection()
    connection.request(
        "POST", "/v1/audio/separations", sent["body"], {"Content-Type": sent["Content_Type"]}
    )
    while server("GET", "/health").json["running"] is None:
        time.sleep(0.05)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    start = time.monotonic()
    while server("GET", "/health").json["running"] is not None:
        time.sleep(0.05)
        assert time.monotonic() - start < 15
    assert {one["id"] for one in server("GET", "/v1/jobs").json["data"]} == before


# who may ask


def test_the_token(strict):
    assert strict.told == {
        "port": strict.port, "token": TOKEN, "url": f"http://127.0.0.1:{strict.port}/"
    }  # fmt: skip
    for given in (None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ö"):
        sent = {"Authorization": given and given.encode()}
        answer = strict("GET", "/v1/models", **sent)
        assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert strict("GET", "/v1/models", Authorization=f"bearer {TOKEN}").status == 200
    file = strict.upload(mixture())
    query = TOKEN.replace(" ", "%20")
    for path, status in (("content", 200), ("frame", 400), ("peaks", 401), ("pcm", 401)):
        answer = strict("GET", f"/v1/files/{file['id']}/{path}?token={query}", Authorization=None)
        assert answer.status == status
    answer = strict("DELETE", f"/v1/files/{file['id']}?token={query}", Authorization=None)
    assert answer.status == 401


def test_other_names_are_refused(server, strict):
    port = server.port
    for host in ("localhost", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert server("GET", "/health", Host=host).status == 200, host
    evil = ("evil.test", f"evil.test:{port}", "localhost.evil.test", "127.0.0.1.evil.test", "",
            "127.0.0.1@evil.test", "[::1", "10.0.0.1", "localhost/", "127.0.0.1:x")  # fmt: skip
    for host in evil:
        answer = server("GET", "/v1/files", Host=host)
        assert answer.status == 403 and answer.error["code"] == "host", host
    assert strict("GET", "/health", Host="sounds.test").status == 200
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n")
        assert sock.recv(100).split()[1] in (b"400", b"403")


def test_other_pages_are_refused(server, strict):
    own = f"http://127.0.0.1:{server.port}"
    assert server("POST", "/v1/files/example", Origin=own).status == 201
    same = {"Origin": own, "Sec_Fetch_Site": "same-origin"}
    assert server("POST", "/v1/files/example", **same).status == 201
    for origin in ("null", "http://evil.test", f"{own}.evil.test", f"{own}0", "http://127.0.0.1:1",
                   f"ftp://127.0.0.1:{server.port}", f"http://localhost:{server.port}", "",
                   "https://page.test"):  # fmt: skip
        for method, path in (("POST", "/v1/files/example"), ("GET", "/v1/files"), ("OPTIONS", "/")):
            answer = server(method, path, Origin=origin)
            assert answer.status == 403 and answer.error["code"] == "origin", origin
            assert "access-control-allow-origin" not in answer.headers
    for site in ("cross-site", "same-site", "odd"):
        assert server("POST", "/v1/files/example", Sec_Fetch_Site=site).status == 403
        assert server("GET", "/v1/files", Sec_Fetch_Site=site).status == 403
    visit = dict(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert server("GET", "/health", **visit).status == 200
    assert server("POST", "/v1/files/example", **visit).status == 403
    page = dict(Origin="https://page.test", Sec_Fetch_Site="cross-site")
    answer = strict("GET", "/v1/models", **page)
    assert answer.headers["access-control-allow-origin"] == "https://page.test"
    assert "access-control-allow-credentials" not in answer.headers
    asked = {**page, "Access_Control_Request_Method": "POST", "Authorization": None}
    answer = strict("OPTIONS", "/v1/jobs", **asked)
    assert answer.status == 204 and "POST" in answer.headers["access-control-allow-methods"]


def test_limits(strict):
    before = strict("GET", "/v1/files").json["data"]
    long = strict("POST", "/v1/files", b"x" * 200_000)
    assert long.status == 413 and long.error["code"] == "too_large"
    answer = strict("POST", "/v1/files", iter([b"x" * 60_000] * 3))  # without a Content-Length
    assert answer.status == 413
    slow = wav(np.zeros(20_000), 8000)
    assert strict("POST", "/v1/files", slow).error["code"] == "too_long"
    out = io.BytesIO()
    soundfile.write(out, np.zeros(100 * 8000), 8000, format="FLAC")  # small, but it lasts
    assert strict("POST", "/v1/files", out.getvalue()).error["code"] == "too_long"
    urlencoded = "application/x-www-form-urlencoded"
    for path in ("/v1/files", "/v1/jobs", "/v1/audio/separations"):
        assert strict("POST", path, b"a=b", Content_Type=urlencoded).status == 415
    assert strict("POST", "/v1/jobs", b"{}", Content_Type="text/plain").status == 415
    assert strict("POST", "/v1/jobs", b"[" * 2**21, Content_Type="application/json").status == 413
    assert strict("GET", "/v1/files").json["data"] == before


NAMES = [*(field.name for field in fields(Settings)), "kind", "input", "model", "description"]
NAMES += ["descriptions", "spans", "box", "quality", "title"]
VALUES = [None, True, 0, -1, 1e308, 10**30, 1.5, "", "a bird", "\ud800", "\0", "x" * 5000, [], {}]
VALUES += [[[]], [["+", 0, 1e9]], [["+", "0", 1]], [None], {"file": None}, {"a": {"b": []}}]
VALUES += [[0, 0, 1, 1], ["a bird"], "both", "auto", [1] * 40, {"consensus": 1e308}]
BODIES = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 20_000, b'{"a":1,"a":2}', b'"\\ud800"']
BODIES += [b'{"seed":NaN}', b'{"seed":1e999}', b'{"seed":' + b"9" * 5000 + b"}"]
IDS = ["f_" + "g" * 32, "..", "%00", "%2e%2e%2f", "f_" + "0" * 32, "%f6", "x" * 3000]
TAILS = ["", "/content", "/frame", "/peaks", "/pcm", "/spectrogram", "/events", "/cancel", "//"]
TAILS += ["/stems/target.wav", "/stems/../job.json", "/stems/target/pcm", "/all.zip"]
QUERIES = ["", "?from=1e400&to=-1", "?points=-5", "?from=x", "?t=-1e300", "?columns=1e3&top=-1e9"]
QUERIES += ["?from=0&to=0.00001", "?download=%00", "?" + "a=b&" * 200, "?from=0&from=1&to=%ff"]
RANGES = [None, "bytes=-", "bytes=5-1", "bytes=0-0,-1," + "0-1," * 200, "x", "bytes=1" * 99]
POST = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n"
HEADS = [b"GET / HTTP/9\r\n\r\n", b"\0\0\0", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"]
HEADS += [POST + b"Content-Length: -5\r\n\r\n", POST + b"Transfer-Encoding: odd\r\n\r\n"]
HEADS += [POST + b"Content-Type: multipart/form-data; boundary=" + b"x" * 999 + b"\r\n\r\n"]


def test_fuzzed_requests_are_answered(server, file, job):
    """With 4xx, or what was asked for; never with a bug."""
    draw = random.Random(7)
    ids = [file["id"], job["id"], *IDS]
    for _ in range(150):
        values = {draw.choice(NAMES): draw.choice(VALUES) for _ in range(draw.randint(1, 4))}
        values.setdefault("input", {"file": file["id"]})
        answer = server("POST", "/v1/jobs", values)
        assert answer.status < 500, (values, answer.body)
        if answer.status == 202:
            server("DELETE", f"/v1/jobs/{answer.json['id']}")
        else:
            assert answer.error["message"] and "/tmp" not in answer.error["message"]
    for body in BODIES:
        assert server("POST", "/v1/jobs", body, Content_Type="application/json").status == 400
    for _ in range(200):
        kind = draw.choice(("files", "jobs"))
        path = f"/v1/{kind}/{draw.choice(ids)}{draw.choice(TAILS)}{draw.choice(QUERIES)}"
        method = draw.choice(("GET", "GET", "HEAD", "POST", "PUT"))
        answer = server(method, path, Range=draw.choice(RANGES))
        assert answer.status < 500, (method, path, answer.body)
    for head in HEADS:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.settimeout(5)
            sock.sendall(head)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(100)
            assert not answer or answer.split()[1].startswith(b"4"), (head, answer)
    assert server("GET", "/health").status == 200


# what is written down


def test_openapi_tells_all_routes_and_fields(server, file, job):
    told = server("GET", "/openapi.json").json
    assert told["openapi"].startswith("3.1") and told["info"]["title"] and told["info"]["version"]
    from mlx_sam_audio.serve.app import Site, routes

    methods = {}
    for route in routes(Site(None, None, None, None), page=False):
        found = {method.lower() for method in route.methods} - {"head"}
        methods.setdefault(route.path, set()).update(found)
    assert {path: set(item) for path, item in told["paths"].items()} == methods
    schemas = told["components"]["schemas"]
    assert set(schemas["Job"]["properties"]) == set(job)
    assert set(schemas["File"]["properties"]) == set(file)
    assert set(schemas["Stem"]["properties"]) == set(job["stems"]["target"])
    named = set(schemas["Request"]["properties"])
    assert set(job["request"]) <= named and "descriptions" in named
    from mlx_sam_audio.serve.requests import FIELDS

    assert set(schemas["NewJob"]["properties"]) == set(FIELDS)
    model = server("GET", "/v1/models").json["data"][0]
    assert set(schemas["Model"]["properties"]) == set(model)
    references = re.findall(r'"\$ref": "#/([^"]*)"', json.dumps(told))
    for reference in references:
        place = told
        for part in reference.split("/"):
            place = place[part]
    for path, item in told["paths"].items():
        for operation in item.values():
            assert operation["summary"] and operation["responses"]
            given = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path))
            assert all(one.get("description") or "$ref" in one
                       for one in operation["responses"].values())  # fmt: skip


# start and stop


def test_a_killed_server_loses_nothing_that_is_kept(home, tmp_path):
    keep = tmp_path / "kept"
    first = Server("--keep", keep, "--model", "demo", home=home)
    assert keep.stat().st_mode & 0o777 == 0o700
    file = first.upload(mixture(0, 2.0), "song.wav")
    assert file["expires"] is None
    done = first.done(first.ask(file, description="a bird", title="kept"))
    runs = first.ask(file, description="a bird", steps=3000)
    waits = [first.ask(file, description=text) for text in ("a bell", "a drum")]
    while not first("GET", f"/v1/jobs/{runs['id']}").json["progress"]:
        time.sleep(0.05)
    other = subprocess.run(
        [sys.executable, "-m", "mlx_sam_audio.server", "--port", "0", "--keep", str(keep)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert other.returncode == 2 and "another server keeps its files" in other.stderr
    first.stop(signal.SIGKILL)
    second = Server("--keep", keep, "--model", "demo", "--exit-with-stdin", home=home)
    assert second("GET", "/v1/files").json["data"] == [file]
    assert second("GET", f"/v1/jobs/{done['id']}").json == {**done, "eta_seconds": pytest.approx(
        done["eta_seconds"])}  # fmt: skip
    assert len(second.stem(done, "target")) == 2 * RATE
    failed = second("GET", f"/v1/jobs/{runs['id']}").json
    assert failed["status"] == "failed" and "stopped" in failed["error"]["message"]
    for job, text in zip(waits, ("a bell", "a drum"), strict=True):
        assert second.done(job)["stems"]["target"]["description"] == text
    parts = [path.name for path in keep.rglob("*") if "part" in path.name]
    assert not parts
    second.process.stdin.close()
    assert second.process.wait(30) == 0
    assert (keep / "jobs" / done["id"] / "target.wav").exists()


def test_what_others_put_into_a_kept_folder(home, tmp_path):
    """Is not served, and stops nothing."""
    keep = tmp_path / "kept"
    options = ["--keep", keep, "--model", "demo", "--max-folder", "20MB"]
    first = Server(*options, home=home)
    jobs = [first.done(first.ask(first.upload(mixture()), description="a bird")) for _ in range(2)]
    assert first.stop() == 0
    places = [keep / "jobs" / job["id"] for job in jobs]
    values = json.loads((places[0] / "job.json").read_text())
    (places[0] / "job.json").write_text(json.dumps({**values, "created": "yesterday"}))
    (places[1] / "target.wav").unlink()
    (places[1] / "target.wav").symlink_to("/etc/passwd")
    second = Server(*options, home=home)
    assert second("GET", f"/v1/jobs/{jobs[0]['id']}").status == 404
    for end in (".wav", ".flac", "/peaks"):
        assert second("GET", f"{jobs[1]['stems']['target']['url']}{end}").status == 404
    bomb = io.BytesIO()
    soundfile.write(bomb, np.zeros((600 * RATE, 2)), RATE, format="FLAC")
    assert len(bomb.getvalue()) < 100_000  # and 77 MB when it is decoded
    answer = second("POST", "/v1/files", bomb.getvalue())
    assert (answer.status, answer.error["code"]) == (507, "no_room")
    assert second.stop() == 0


@pytest.mark.parametrize(
    "name, shown",
    [
        ("Screen Recording 3.00.00\u202fPM.wav", "Screen Recording 3.00.00\u202fPM.wav"),
        ("C:\\sounds\\a\u00a0b.wav", "a\u00a0b.wav"),
        ("../../etc/\u0646\u0645\u06cc\u200c\u062e.wav", "\u0646\u0645\u06cc\u200c\u062e.wav"),
        ("evil\u202egnp.wav\r\nX: y", "evilgnp.wavX: y"),
        ("/", "recording"),
        ("..", "recording"),
        (".hidden.wav", "hidden.wav"),
    ],
)
def test_names_of_clients_are_kept_as_texts(server, name, shown):
    answer = server("POST", f"/v1/files?name={quote(name)}", wav(mixture()))
    assert answer.json["name"] == shown
    saved = server("GET", f"/v1/files/{answer.json['id']}/content?download=1")
    assert "\n" not in saved.headers["content-disposition"] and saved.status == 200


def test_an_upload_whose_client_leaves(server):
    """Is not decoded to its end, nor kept."""
    long = io.BytesIO()
    soundfile.write(long, np.zeros((18 * 655_350, 2)), 655_350, format="FLAC")
    before = server("GET", "/v1/files").json["data"]
    connection = server.connection()
    connection.request("POST", "/v1/files", long.getvalue())
    time.sleep(0.3)
    connection.close()
    time.sleep(4)
    assert server("GET", "/v1/files").json["data"] == before


def test_a_killed_servers_temporary_folder_goes_with_the_next(home):
    first = Server("--model", "demo", home=home)
    first.upload(mixture())
    before = folders(home)
    first.stop(signal.SIGKILL)
    second = Server("--model", "demo", "--expire", "1s", "--idle", "1s", home=home)
    assert len(folders(home) - before) == 1 and len(before - folders(home)) == 1
    (folder,) = folders(home) - before
    assert folder.stat().st_mode & 0o777 == 0o700
    file = second.upload(mixture())
    job = second.done(second.ask(file, description="a bird"))
    assert second("GET", "/health").json["model"] == "demo"
    deadline = time.monotonic() + 15
    while second("GET", f"/v1/jobs/{job['id']}").status == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert second("GET", f"/v1/files/{file['id']}").status == 404
    while list(folder.glob("*/*")) or second("GET", "/health").json["model"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    runs = second.ask(second.upload(mixture(0, 2.0)), description="a bird", steps=3000)
    while not second("GET", f"/v1/jobs/{runs['id']}").json["progress"]:
        time.sleep(0.05)
    start = time.monotonic()
    assert second.stop(signal.SIGTERM) == 0 and time.monotonic() - start < 15
    assert not folder.exists()


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--host", "192.168.7.7", "--token", "x"], "cannot listen"),
        (["--model", "huge"], "not installed"),
        (["--allow-origin", "*"], "no origin"),
        (["--expire", "soon"], "no time"),
        (["--max-queue", "0"], "1 or more"),
        (["--port", "70000"], "--port"),
        (["--host", "0.0.0.0", "--token", ""], "--token is empty"),
        (["--host", "0.0.0.0", "--token", "ü"], "--token must be of ASCII"),
        (["--keep", __file__], "cannot make the folder"),
        (["--keep", "/proc/x"], "cannot make the folder"),
    ],
)
def test_bad_options_are_one_line(options, sentence, capfd):
    from mlx_sam_audio import server

    with contextlib.suppress(SystemExit):
        assert server.main(options) == 2
    told = capfd.readouterr().err
    assert sentence in told and len(told.splitlines()) == 1


def test_the_playground_takes_the_next_port_and_a_token(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server("--no-browser", "--port", port, "--model", "demo", home=home,
                        module="playground")  # fmt: skip
        assert port < server.port <= port + 20 and len(server.token) > 16
        assert server("GET", "/v1/models").status == 200
        assert server("GET", "/v1/models", Authorization=None).status == 401
        assert server.stop() == 0


def test_many_jobs_leave_memory_and_files_as_they_were(home):
    from benchmarks import server as benchmark

    rows = benchmark.soak(30, 1.0, 1)
    first, last = rows[len(rows) // 2], rows[-1]
    assert last["files"] <= first["files"] + 2  # an answered connection may not be closed yet
    assert last["entries"] == first["entries"]
    assert last["memory"] < 1.1 * first["memory"]
