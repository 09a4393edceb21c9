"""What public methods do with arguments of any kind, and with threads."""

import os
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam_audio import SAMAudioError, Span, errors
from mlx_sam_audio.loading import kernels
from mlx_sam_audio.models.cpu import on_cpu

WAVE = np.random.default_rng(0).normal(0, 0.1, 900).astype(np.float32)
FAST = dict(method="euler", steps=1)
STRANGE = (
    *(object(), b"x", "\ud800", [None], [[1], [1, 2]], {"a": 1}, {"a": "b"}, {1}, complex(1)),
    *(np.array(["a"]), np.array([None]), 10**400, float("nan"), iter([1]), Ellipsis),
    *(np.zeros((2, 2)), mx.zeros(3)),
)
NAMES = (
    "audio description spans video predict_spans candidates ranker gate method steps times seed "
    "noise message watermark residual max_memory progress"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_values_of_any_kind_are_used_or_refused_in_a_sentence(toy, name):
    for value in STRANGE:
        arguments = {"audio": WAVE, "description": "dog", **FAST, name: value}
        try:
            result = toy.separate(**arguments)
        except SAMAudioError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
        else:
            assert np.isfinite(np.array(result.target)).all()


def test_a_refusal_names_the_argument_and_what_it_takes(toy):
    with pytest.raises(SAMAudioError, match="gate must be True or False, not 1"):
        toy.separate(WAVE, "dog", gate=1)
    with pytest.raises(SAMAudioError, match=r"steps must be a whole number, not an array \(3,\)"):
        toy.separate_long(WAVE, "dog", steps=mx.zeros(3))
    with pytest.raises(SAMAudioError, match="progress must be a function, or None, not 'bar'"):
        toy.stream(WAVE, "dog", progress="bar")


def test_spans_of_any_kind(toy):
    for value in STRANGE:
        for arguments in ((value, 0.0, 1.0), ("+", value, 1.0), ("+", 0.0, value)):
            with pytest.raises(SAMAudioError, match="a span|span \\+"):
                Span(*arguments)
    with pytest.raises(SAMAudioError, match="read from a string"):
        Span.parse(None)


def test_another_thread_is_refused_while_a_model_is_busy(toy):
    inside, refused = threading.Event(), threading.Event()
    found = []

    def other():
        inside.wait(30)
        try:
            toy.separate(WAVE, "dog", **FAST)
        except SAMAudioError as error:
            found.append(str(error))
        refused.set()

    def progress(now):
        inside.set()
        refused.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    toy.separate(WAVE, "dog", **FAST, progress=progress)
    thread.join()
    assert found == ["this SAMAudio is busy in another thread: wait for it, or load another"]


def test_between_the_pieces_of_a_stream_a_model_is_free(toy):
    settings = dict(window=0.7, overlap=0.2, **FAST)
    streams = [toy.stream(WAVE, "dog", seed=seed, **settings) for seed in (0, 1)]
    pieces = [(np.array(a.target), np.array(b.target)) for a, b in zip(*streams, strict=True)]
    for seed, stem in enumerate(zip(*pieces, strict=True)):
        alone = [np.array(piece.target) for piece in toy.stream(WAVE, "dog", seed=seed, **settings)]
        assert np.array_equal(np.concatenate(stem), np.concatenate(alone))


def test_a_process_that_used_a_model_in_a_thread_ends_cleanly():
    code = """
import os, threading
import numpy as np
from mlx_sam_audio import SAMAudio, SAMAudioError

def work():
    model = SAMAudio.from_pretrained("demo")
    results.append((model, model.separate(wave, "bird", method="euler", steps=1)))

results, wave = [], np.zeros(4000, np.float32)
thread = threading.Thread(target=work)
thread.start()
thread.join()
(model, result), = results
assert np.isfinite(np.array(result.target)).all()
assert len(model.separate(wave, "bird", method="euler", steps=1).target) == 4000
if os.fork() == 0:
    try:
        model.separate(wave, "bird")
    except SAMAudioError as error:
        os._exit(7 if "forked" in str(error) else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_kernels_that_others_may_have_planted_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    stopped = []
    monkeypatch.setattr(kernels.mx, "disable_compile", lambda: stopped.append(True))
    if not kernels.on_cpu():
        return
    kernels.guard_kernels.__wrapped__()
    assert not stopped and (tmp_path / "mlx").stat().st_mode & 0o777 == 0o700
    (tmp_path / "mlx").chmod(0o777)
    with pytest.warns(UserWarning, match="mlx is not this user's alone"):
        kernels.guard_kernels.__wrapped__()
    assert stopped
    monkeypatch.setenv("TMPDIR", "none")
    with pytest.warns(UserWarning, match="none/mlx cannot be used"):
        kernels.guard_kernels.__wrapped__()


def test_kernels_lie_where_mlx_puts_them(tmp_path):
    """Python and C++ look for a temporary folder in different variables."""
    places = {name: str(tmp_path / name) for name in ("TMP", "TEMP")}
    for place in places.values():
        os.mkdir(place)
    code = "import mlx.core as mx; from mlx_sam_audio.loading.kernels import place; print(place())"
    code += "; mx.eval(mx.compile(lambda x: mx.exp(-x) * 2, shapeless=True)(mx.ones(2)))"
    names = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    done = subprocess.run([sys.executable, "-c", code], env=names | places, capture_output=True)
    assert done.stdout.decode().strip() == str(tmp_path / "TMP/mlx"), done.stderr
    assert not on_cpu() or list((tmp_path / "TMP/mlx").iterdir())


def test_values_are_shown_in_a_few_words():
    assert errors.shown(np.zeros((2, 3))) == "an array (2, 3) of float64"
    assert len(errors.shown("x" * 5000)) < 100
