"""The bundled model: does the prompt choose the sound? Bounds on a small fixed set, with room for
float differences; the full table is made by `benchmarks.evaluate` (docs/evaluation.md)."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import mixtures
from mlx_sam_audio import SAMAudio, SAMAudioError, Span
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.loading import store
from mlx_sam_audio.ranking.metrics import level, si_sdr

STEPS = 8


@pytest.fixture(scope="module")
def demo() -> SAMAudio:
    return SAMAudio.from_pretrained("demo")


@pytest.fixture(scope="module")
def pair() -> sounds.Mixture:
    """A bass and a clock: far apart."""
    rng = sounds.heldout_rng(11)
    sources = np.stack([sounds.clip(name, rng, 2.0) for name in ("bass", "clock")])
    return sounds.Mixture(("bass", "clock"), sources)


def separate(demo, wave, description, **options):
    result = demo.separate(wave, description, steps=STEPS, **options)
    return np.array(result.target), np.array(result.residual)


def test_the_shipped_files_are_whole_and_small():
    SAMAudio.from_pretrained("demo", verify=True)
    assert sum(path.stat().st_size for path in store.DEMO.iterdir()) <= 12_000_000


def test_the_prompt_chooses(demo, pair):
    """Swapping the prompts of a mixture of two sounds swaps the outputs."""
    for wanted, other, phrase in ((0, 1, "a bass line"), (1, 0, "a clock ticking")):
        target, residual = separate(demo, pair.mixture, phrase)
        before = si_sdr(pair.mixture, pair.sources[wanted])
        assert si_sdr(target, pair.sources[wanted]) > before + 5
        assert si_sdr(residual, pair.sources[other]) > si_sdr(residual, pair.sources[wanted]) + 10


def test_spans_alone_choose(demo, pair):
    """Two sounds, one after the other: each span returns its own."""
    half = len(pair.sources[0]) // 2
    first, second = (source.copy() for source in pair.sources)
    first[half:], second[:half] = 0, 0
    wave, seconds = first + second, len(first) / sounds.SAMPLE_RATE
    for source, start in ((first, 0.0), (second, seconds / 2)):
        target, _ = separate(demo, wave, "", spans=[Span("+", start, start + seconds / 2)])
        assert si_sdr(target, source) > si_sdr(wave, source) + 5


def test_a_wrong_prompt_is_worse(demo):
    items = list(mixtures.items(6, 21, 2.0, demo.sample_rate))
    waves = [item.mixture for item in items]
    gains = {}
    for words in ("phrase", "other"):
        results = demo.separate_batch(waves, [getattr(i, words) for i in items], steps=STEPS)
        gains[words] = np.mean([
            si_sdr(np.array(result.target), item.target) - si_sdr(item.mixture, item.target)
            for item, result in zip(items, results, strict=True)
        ])  # fmt: skip
    assert gains["phrase"] > 4 and gains["other"] < -10


def test_stems_sum_to_the_mixture(demo, pair):
    target, residual = separate(demo, pair.mixture, "a bass line")
    assert si_sdr(target + residual, pair.mixture) > 13


def test_an_absent_sound_is_faint(demo, pair):
    target, _ = separate(demo, pair.mixture, "a siren wailing")
    assert level(target) < level(pair.mixture) - 8


@pytest.mark.parametrize(
    "description, unknown",
    [
        ("a cat meowing", "'cat', 'meowing'"),
        ("!!!", "'!!!'"),
        (f"{'x' * 99} cat pig cow owl fox", f"'{'x' * 59}... .str., .*, 'owl' and more"),
    ],
)
def test_unknown_words(demo, pair, description, unknown):
    with pytest.raises(SAMAudioError, match=f"does not know {unknown}: it knows beep, siren"):
        separate(demo, pair.mixture, description)


def test_capital_letters_make_no_difference(demo, pair):
    (upper, _), (lower, _) = (separate(demo, pair.mixture, text) for text in ("A Siren", "a siren"))
    assert np.array_equal(upper, lower)


def test_held_out_sounds_are_never_trained_on():
    seeds = {sounds.training_rng(i).bit_generator.state["state"]["state"] for i in range(100)}
    held = {sounds.heldout_rng(i).bit_generator.state["state"]["state"] for i in range(100)}
    assert len(seeds | held) == 200


def test_the_demo_command(tmp_path):
    """From another folder, with no network to be had."""
    blocked = dict(
        HF_HUB_OFFLINE="1", http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mlx_sam_audio.separate", "--demo"],
        cwd=tmp_path,
        env={**os.environ, **blocked},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    stems = {"demo.mixture.wav", "demo.target.wav", "demo.residual.wav"}
    assert {path.name for path in tmp_path.iterdir()} == {*stems, "demo.png", "demo.html"}
    page = (tmp_path / "demo.html").read_text()
    assert set(re.findall('src="(.*?)"', page)) == {*stems, "demo.png"}
    before, after = (float(word) for word in done.stdout.split("SI-SDR")[1].split()[0:4:3])
    assert after > before + 5
