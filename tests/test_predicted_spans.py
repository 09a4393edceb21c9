"""Predicted spans reach the transformer, whichever way audio is separated."""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from mlx.utils import tree_flatten

from benchmarks.parity import relative_error
from convert.command import convert
from mlx_sam_audio import SAMAudio, SAMAudioError, Span
from mlx_sam_audio.engine import presence
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.models.pe_a_frame import PEAudioFrame
from mlx_sam_audio.separate import main
from mlx_sam_audio.span_predictor import SpanPredictor, seconds

ORIGINAL = Path(__file__).parent / "golden" / "pe_a_frame"
WAVE = np.random.default_rng(0).normal(0, 0.1, 60 * 1920).astype(np.float32)
FEW = dict(method="euler", steps=2, watermark=False)
FOUND = (Span("+", 0.4, 0.8), Span("+", 1.6, 2.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny) -> Path:
    """A span predictor for the tiny model's latents, with random weights where they come in."""
    folder = convert(str(ORIGINAL), tmp_path_factory.mktemp("models") / "predictor")
    config = SpanPredictor.from_pretrained(folder).config
    config = replace(config, channels=tiny.config.codec.codebook_dim)
    mx.random.seed(1)
    weights = dict(tree_flatten(PEAudioFrame(config).parameters()))
    weights |= {k: v for k, v in mx.load(str(folder / "model.safetensors")).items()
                if v.shape == weights[k].shape}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    manifest.write(folder)
    network = SpanPredictor.from_pretrained(folder).network
    text = network.embed_text(*SpanPredictor.from_pretrained(folder).tokenizer(["dog"]))
    logits = network(mx.array(tiny.encode(WAVE)[:]), text)
    weights["logit_bias"] -= mx.median(logits)  # half of all frames
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    manifest.write(folder)
    return folder


def fake(latents, descriptions, samples, **windows):
    """Finds the same in every item."""
    assert len(latents) == len(descriptions) == len(samples)
    return [FOUND] * len(descriptions)


@pytest.mark.parametrize("found", [None, "a", [], [FOUND, FOUND], 5])
def test_what_is_no_list_of_spans_for_each_description_is_refused(tiny, found):
    with pytest.raises(SAMAudioError, match="the span predictor returned .*, not spans for each"):
        tiny.separate(WAVE, "dog", predict_spans=lambda *a, **k: found, **FEW)


def test_they_are_like_given_ones(tiny):
    given = tiny.separate(WAVE, "dog", spans=FOUND, **FEW)
    found = tiny.separate(WAVE, "dog", predict_spans=fake, **FEW)
    without = tiny.separate(WAVE, "dog", **FEW)
    assert found.spans == FOUND and without.spans == ()
    assert mx.array_equal(found.target, given.target).item()
    assert relative_error(without.target, given.target) > 1e-3


def test_given_ones_are_kept(tiny):
    mine = (Span("-", 0.0, 1.0),)
    results = tiny.separate_batch(
        [WAVE, WAVE], ["dog", "cat"], spans=[mine, ()], predict_spans=fake, **FEW
    )
    assert [result.spans for result in results] == [mine, FOUND]


@pytest.mark.parametrize("stream", [False, True])
def test_long_files(tiny, stream):
    options = dict(window=0.8, overlap=0.24, **FEW)
    if stream:
        a, b = (
            list(tiny.stream(WAVE, "dog", **options, **spans))
            for spans in (dict(predict_spans=fake), dict(spans=FOUND))
        )
        assert {chunk.spans for chunk in a} == {FOUND}
        a, b = (np.concatenate([np.array(chunk.target) for chunk in run]) for run in (a, b))
    else:
        a = tiny.separate_long(WAVE, "dog", predict_spans=fake, **options)
        b = tiny.separate_long(WAVE, "dog", spans=FOUND, **options)
        assert a.spans == FOUND
        a, b = a.target, b.target
    assert np.array_equal(np.array(a), np.array(b))


@pytest.mark.parametrize("window", [0.8, 10])  # long, and in one piece
def test_they_say_where_the_sound_is(tiny, window, monkeypatch):
    monkeypatch.setattr(presence, "WINDOW", 0.4)
    options = dict(window=window, overlap=0.24, gate=True, predict_spans=fake, **FEW)
    result = tiny.separate_long(WAVE, "dog", **options)
    assert [row.predicted for row in result.presence] == [False, True, False, False, True, False]
    target = np.abs(np.array(result.target)).reshape(6, -1)
    middle = target[:, target.shape[1] // 4 : -target.shape[1] // 4].max(axis=1)
    assert np.array_equal(middle > 0, [False, True, False, False, True, False])
    given = tiny.separate_long(WAVE, "dog", **{**options, "spans": FOUND})
    assert {row.predicted for row in given.presence} == {None}


def test_the_real_network_reads_the_mixtures_latents(tiny, folder):
    predictor = SpanPredictor.from_pretrained(folder)
    latents = tiny.encode(WAVE)[:].swapaxes(0, 1)
    (expected,) = predictor(latents, "dog", threshold=0.5, samples=[len(WAVE)])
    options = partial(predictor, threshold=0.5)
    assert expected and tiny.predict_spans(WAVE, "dog", options) == expected
    lengths = dict(window=1.0, overlap=0.4)
    (in_windows,) = predictor(latents, "dog", threshold=0.5, samples=[len(WAVE)], **lengths)
    assert tiny.predict_spans(WAVE, "dog", options, **lengths) == in_windows != expected
    result = tiny.separate(WAVE, "dog", predict_spans=options, **FEW)
    assert result.spans == expected
    frames = predictor.probabilities(latents, "dog", samples=[len(WAVE)])[0]
    seconds = [np.array(frames)[i : i + 25].max() for i in range(0, len(frames), 25)]
    assert [row.probability for row in result.presence] == seconds
    again = copy.deepcopy(result.spans)
    assert again == expected and again.probability(0, 1) == seconds[0]


def test_another_codec(toy, folder):
    with pytest.raises(SAMAudioError, match="48000 Hz and hop length 1920, this model's have 1000"):
        toy.separate(WAVE[:80], "dog", predict_spans=SpanPredictor.from_pretrained(folder))


def test_the_command(tiny_folder, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("mix.wav", WAVE, 48_000, subtype="FLOAT")
    command = ["-m", str(tiny_folder), "-i", "mix.wav", "-d", "dog", "--span-model", str(folder)]
    command += ["--span-threshold", "0.5", "--steps", "1"]
    assert main([*command, "--spans-only"]) == 0
    spans = json.loads(Path("mix.dog.spans.json").read_text())
    labels = [line.split("\t") for line in Path("mix.dog.spans.txt").read_text().splitlines()]
    assert len(spans) == len(labels) > 0 and not Path("mix.dog.wav").exists()
    for (sign, start, end), (first, last, label) in zip(spans, labels, strict=True):
        assert sign == "+" and label == "dog"
        assert (float(first), float(last)) == pytest.approx((start, end))

    assert main([*command, "--predict-spans", "--metrics-json", "run.json"]) == 0
    values = json.loads(Path("run.json").read_text())
    assert values["spans"] == spans and values["spans_predicted"]
    assert "(predicted)" in capsys.readouterr().out


def test_without_its_weights(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM_AUDIO_HOME", str(tmp_path))
    soundfile.write("mix.wav", WAVE, 48_000)
    command = ["-m", str(tiny_folder), "-i", "mix.wav", "-d", "dog", "--predict-spans"]
    assert main(command) == 2
    assert "python -m convert --hf-path pe-a-frame-large" in capsys.readouterr().err


def test_printed_spans_can_be_typed(tiny):
    """Every frame's time comes back as that frame."""
    times = seconds(np.arange(9999), 48_000, 1920)
    spans = [Span("+", a, b) for a, b in zip(times, times[1:], strict=False)]
    typed = [Span.parse(str(span)) for span in spans]
    assert typed == spans
    starts = np.ceil(np.array([span.start for span in typed]) * 48_000 / 1920)
    assert np.array_equal(starts, np.arange(9998))


def test_memory_counts_the_predictor(tiny, folder):
    predictor = SpanPredictor.from_pretrained(folder)
    without, with_it = (
        tiny.prepare(WAVE, "dog", predict_spans=predict).memory.bytes
        for predict in (False, partial(predictor, threshold=0.5))
    )
    parameters = tree_flatten(predictor.network.parameters())
    assert with_it - without == sum(value.nbytes for _, value in parameters)


def test_nothing_to_look_for(tiny, folder):
    with pytest.raises(SAMAudioError, match="the prompt is empty"):
        tiny.predict_spans(WAVE, " ", SpanPredictor.from_pretrained(folder))


def test_it_is_loaded_when_it_is_asked_for(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_AUDIO_HOME", str(tmp_path))
    model = SAMAudio.from_pretrained(tiny_folder)
    model.separate(WAVE[:9600], "dog", **FEW)
    with pytest.raises(SAMAudioError, match="not converted yet"):
        model.separate(WAVE[:9600], "dog", predict_spans=True, **FEW)
