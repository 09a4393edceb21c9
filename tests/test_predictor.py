"""The span predictor computes what the original computes, and its spans are exact."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hub import Hub, pointed_at
from safetensors.numpy import load_file

from benchmarks.parity import relative_error
from convert import pe_a_frame
from convert.command import convert
from mlx_sam_audio import SAMAudioError, Span, span_predictor
from mlx_sam_audio.command import choice
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.prompts import anchors
from mlx_sam_audio.span_predictor import SpanPredictor, runs, seconds, to_json, to_labels, to_spans

ORIGINAL = Path(__file__).parent / "golden" / "pe_a_frame"
FROM_GOLDENS = {
    "layers": lambda meta: [int(x[11:]) for x in meta["tensors"] if x.startswith("text.hidden")]
}
RATE, HOP = 48_000, 1920


@pytest.fixture
def predictor(folder) -> SpanPredictor:
    return SpanPredictor.from_pretrained(folder)


@pytest.fixture(scope="module")
def samples(folder, meta) -> list[int]:
    hop = read_json(folder / "config.json")["hop_length"]
    return [frames * hop for frames in meta["sizes"]]


def hidden(predictor, golden, layers: int) -> mx.array:
    """What so many layers of the text tower make of the prompts."""
    tower = predictor.network.text_model
    tower.layers = tower.layers[:layers]
    mask = golden["attention_mask"] > 0
    return tower(golden["input_ids"], mask) * mask[..., None]


def text_error(predictor, golden, layers: int) -> float:
    return relative_error(hidden(predictor, golden, layers), golden[f"text.hidden{layers}"])


def logits(predictor, golden) -> mx.array:
    return predictor.network(golden["latents"], golden["text_embeds"], golden["padding_mask"])


def logits_error(predictor, golden) -> float:
    return relative_error(logits(predictor, golden), golden["logits"])


@pytest.mark.parity
def test_tokens(predictor, golden, meta):
    tokens, mask = predictor.tokenizer(meta["prompts"])
    assert mx.array_equal(tokens, golden["input_ids"]).item()
    assert mx.array_equal(mask, golden["attention_mask"] > 0).item()


def test_a_long_prompt_is_cut(predictor):
    """To 512 tokens, of which the last is still [SEP]."""
    tokens, mask = predictor.tokenizer(["a dog barks " * 300, "a dog"])
    assert tokens.shape == (2, 512) and mask[0].all().item()
    assert tokens[0, -1].item() == tokens[1, mask[1].sum().item() - 1].item() == 422


@pytest.mark.parity
def test_text_tower(predictor, golden, near, layers):
    assert near(hidden(predictor, golden, layers), f"text.hidden{layers}")


@pytest.mark.parity
def test_text_embeddings(predictor, golden, near):
    tokens, mask = golden["input_ids"], golden["attention_mask"] > 0
    assert near(predictor.network.text_model(tokens, mask)[:, 0], "text.cls")
    assert near(predictor.network.text_head(golden["text.cls"]), "text_embeds")


@pytest.mark.parity
def test_audio_stages(predictor, golden, meta, near):
    network, mask = predictor.network, golden["padding_mask"]
    x = network.data_proj(golden["latents"])
    with_token = mx.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    assert near(network.audio_transformer.embeddings(x, with_token), "audio.embedded")
    assert near(network.audio_transformer(x, mask), "audio.frames")
    assert near(network.audio_head(golden["audio.frames"]), "audio_embeds")
    alone = network.embed_audio(golden["latents"][:1, : meta["sizes"][0]])
    assert near(alone, "single.audio_embeds")


@pytest.mark.parity
def test_logits(predictor, golden, near):
    assert near(logits(predictor, golden), "logits")


@pytest.mark.parity
def test_predicted_spans_are_the_originals(predictor, golden, meta, near, samples):
    """Those of the original lie in padding too; ours end with the audio."""
    rows = predictor.probabilities(golden["latents"], meta["prompts"], samples=samples)
    assert near(rows, "probabilities")
    frames = [runs(row > meta["threshold"]).tolist() for row in np.array(rows)]
    assert frames == meta["spans_frames"]
    given = dict(samples=samples, threshold=meta["threshold"])
    spans = predictor(golden["latents"], meta["prompts"], **given)
    rate, hop = predictor.config.sample_rate, predictor.config.hop_length
    for row, expected, length in zip(spans, golden["predicted"], samples, strict=True):
        marked = np.array(expected)[: length // hop]
        assert np.array_equal(np.array(anchors(row, length, rate, hop)), marked)


def test_local_layers_see_exactly_their_window(predictor, golden):
    tower = predictor.network.text_model
    for change in (-1, 1):
        tower._config = replace(predictor.config.text, window=predictor.config.text.window + change)
        assert text_error(predictor, golden, 6) > 1e-3


def test_local_layers_have_an_angle_of_their_own(predictor, golden):
    tower = predictor.network.text_model
    tower._config = replace(predictor.config.text, local_theta=predictor.config.text.global_theta)
    assert text_error(predictor, golden, 2) > 1e-3


def test_the_class_token_takes_part(predictor, golden):
    embeddings = predictor.network.audio_transformer.embeddings
    embeddings.cls_token = mx.zeros_like(embeddings.cls_token)
    assert logits_error(predictor, golden) > 1e-3


def test_padding_changes_nothing(predictor, golden, meta, samples):
    together = predictor.probabilities(golden["latents"], meta["prompts"], samples=samples)
    for i, frames in enumerate(meta["sizes"]):
        alone = predictor.probabilities(np.array(golden["latents"])[i, :frames], meta["prompts"][i])
        assert relative_error(together[i : i + 1, :frames], alone) <= 1e-5


def test_no_padding_is_all_content(predictor, golden):
    latents, text = golden["latents"], golden["text_embeds"]
    masked = predictor.network(latents, text, mx.ones(latents.shape[:2], mx.bool_))
    assert relative_error(masked, predictor.network(latents, text)) <= 1e-5


def test_one_window_is_the_whole(predictor, golden, meta):
    latents, prompts = golden["latents"], meta["prompts"]
    whole = predictor.probabilities(latents, prompts)
    assert mx.array_equal(whole, predictor.probabilities(latents, prompts, window=60)).item()


def test_windows_are_cross_faded(predictor, golden, meta):
    """60 frames in windows of 40 that share 20: alone outside the overlap, between both inside."""
    latents, prompt = golden["latents"][0], meta["prompts"][0]
    joined = np.array(predictor.probabilities(latents, prompt, window=1.6, overlap=0.8))[0]
    first, second = (
        np.array(predictor.probabilities(latents[start : start + 40], prompt))[0]
        for start in (0, 20)
    )
    assert np.allclose(joined[:20], first[:20], atol=1e-6)
    assert np.allclose(joined[40:], second[20:], atol=1e-6)
    a, b, between = first[20:], second[:20], joined[20:40]
    fade = (np.arange(20) + 0.5) / 20
    assert np.abs(a - b).max() > 0.01
    assert np.allclose(between, (1 - fade) * a + fade * b, atol=1e-6)


def test_audio_longer_than_the_rotary_table(predictor, golden, meta, monkeypatch):
    """A table of 31 positions holds the class token and 30 frames."""
    latents, prompt = golden["latents"][0], meta["prompts"][0]
    expected = predictor.probabilities(latents, prompt, window=1.2, overlap=0.4)
    short = replace(predictor.config.transformer, max_positions=31)
    predictor.config = replace(predictor.config, transformer=short)
    assert mx.array_equal(predictor.probabilities(latents, prompt, overlap=0.4), expected).item()
    with pytest.raises(SAMAudioError, match=r"window \(1.24 s\) must .* last at most 1.2 s"):
        predictor(latents, prompt, window=1.24, overlap=0.4)


@pytest.mark.parametrize("rate, hop", [(48_000, 1920), (16_000, 640), (44_100, 512)])
def test_every_frame_comes_back(rate, hop):
    """The model's own anchors of spans at every second frame up to 10000, both ways round."""
    starts = np.arange(0, 10_000, 2)
    for first in (starts, starts[:-1] + 1):
        spans = to_spans(np.stack([first, first + 1], axis=1), 10_000 * hop, rate, hop)
        row = np.array(anchors(spans, 10_000 * hop, rate, hop))
        assert np.array_equal(np.flatnonzero(row), first)


def test_times_are_those_of_the_frames():
    frames = np.arange(10_001)
    assert np.abs(seconds(frames, RATE, HOP) - frames / 25).max() < 1e-12


def test_a_span_ends_with_its_audio(predictor, golden):
    """The last frame is seldom full."""
    samples = 59 * HOP + 1
    (spans,) = predictor(golden["latents"][0], "dog", threshold=0, samples=[samples])
    assert spans == (Span("+", 0, samples / RATE),)
    assert np.array(anchors(spans, samples, RATE, HOP)).tolist() == [1] * 60


def test_threshold(predictor, golden):
    latents = golden["latents"][0]
    assert predictor(latents, "dog", threshold=0) == [(Span("+", 0, 2.4),)]
    assert predictor(latents, "dog", threshold=1) == [()]
    rows = np.array(predictor.probabilities(latents, "dog"))[0]
    level = float(rows[10])  # strictly above
    spans = predictor(latents, "dog", threshold=level)[0]
    assert np.flatnonzero(np.array(anchors(spans, 60 * HOP, RATE, HOP))).tolist() == (
        np.flatnonzero(rows > rows[10]).tolist()
    )


def test_smallest_and_gap():
    active = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1, 1], bool)
    assert runs(active).tolist() == [[0, 2], [3, 4], [7, 8], [10, 13]]
    assert runs(active, smallest=2).tolist() == [[0, 2], [10, 13]]
    assert runs(active, gap=1).tolist() == [[0, 4], [7, 8], [10, 13]]
    assert runs(active, gap=2).tolist() == [[0, 4], [7, 13]]
    assert runs(active, smallest=4, gap=1).tolist() == [[0, 4]]
    assert runs(active, gap=3).tolist() == [[0, 13]]
    assert runs(active & False, smallest=1, gap=1).tolist() == []
    assert runs(active | True).tolist() == [[0, 13]]


def test_smallest_and_gap_are_seconds(predictor, golden, meta, samples):
    """0.28 s are seven frames, though 0.28 * 48000 / 1920 is a little more."""
    latents, prompts = golden["latents"], meta["prompts"]
    for smallest, gap, frames in ((0.28, 0, (7, 0)), (0.2, 0.04, (5, 1))):
        spans = predictor(latents, prompts, samples=samples, smallest=smallest, gap=gap)
        for row, active, length in zip(spans, golden["predicted"], samples, strict=True):
            expected = runs(np.array(active)[: length // HOP], *frames)
            assert row == to_spans(expected, length, RATE, HOP)
    assert 7 in [end - first for first, end in runs(np.array(golden["predicted"][1])).tolist()]


def test_writers():
    spans = (Span("+", 0.28, 1.2), Span("+", 2, 2.4))
    assert json.dumps(to_json(spans)) == '[["+", 0.28, 1.2], ["+", 2, 2.4]]'
    labels = "0.280000\t1.200000\ta dog\n2.000000\t2.400000\ta dog\n"
    assert to_labels(spans, "a\tdog\n") == labels


@pytest.mark.parametrize(
    "shape, descriptions, options, message",
    [
        ((1, 9, 15), ["dog"], {}, r"latents must be \(items, frames, 16\), not \(1, 9, 15\)"),
        ((1, 0, 16), ["dog"], {}, "latents must be"),
        ((2, 9, 16), ["dog"], {}, "2 items need as many descriptions, not 1"),
        ((9, 16), " ", {}, "for a description: it is empty"),
        ((9, 16), "dog", dict(threshold=float("nan")), "threshold must be 0 to 1"),
        ((9, 16), "dog", dict(gap=-1), "gap must be 0 or more, not -1"),
        ((9, 16), "dog", dict(samples=[10 * HOP]), "samples must be 1 lengths of 1 to 17280"),
        ((9, 16), "dog", dict(window=1, overlap=1), "longer than the overlap"),
        ((9, 16), "dog", dict(window=float("nan")), "longer than the overlap"),
        ((9, 16), "dog", dict(window=401), "at most 399.96 s"),
    ],
)
def test_errors(predictor, shape, descriptions, options, message):
    with pytest.raises(SAMAudioError, match=message):
        predictor(mx.zeros(shape), descriptions, **options)


def test_the_folder_is_complete(folder):
    names = {path.name for path in folder.iterdir()}
    described = {"config.json", "model.safetensors", "source.json", "tokenizer.json"}
    assert names == {"manifest.json", *described} and set(manifest.read(folder)) == described
    origin = json.loads((folder / "source.json").read_text())
    assert set(origin["checkpoint"]["sha256"]) == {
        "model.safetensors", "config.json", "tokenizer.json",
    }  # fmt: skip


def test_what_is_left_out(folder):
    original = load_file(ORIGINAL / "model.safetensors")
    parts = ("dac_vae_encoder.", "text_model.layers.6.", "text_model.layers.7.", ".final_norm.")
    kept = {name for name in original if not any(part in name for part in parts)}
    ours = load_file(folder / "model.safetensors")
    assert {pe_a_frame.source_name(name) for name in ours} == kept < set(original)


def test_missing_and_unexpected_tensors(edit, refused):
    edit("model.safetensors", lambda x: x.pop("text_model.layers.5.attn.Wo.weight"))
    refused("the checkpoint lacks 1 tensors: text_model.layers.5.attn.Wo.weight")
    edit("config.json", lambda values: values.update(nth_text_layer=5))
    edit("model.safetensors", lambda x: x.update({"text_model.x": np.zeros(1, np.float32)}))
    refused("unexpected 1 tensors: text_model.x")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("audio_model"), "describes no checkpoint that can be .*PE-A-Frame"),
        (lambda c: c.update(nth_text_layer=8), "nth_text_layer is 8: only a layer before the last"),
        (lambda c: c.update(nth_text_layer=None), "nth_text_layer is None"),
        (
            lambda c: c["text_model"].update(norm_bias=True),
            "norm_bias is True, expected False",
        ),
        (
            lambda c: c["audio_model"]["audio_transformer"].update(num_key_value_heads=1),
            "audio_transformer: 4 heads, but 1 of keys",
        ),
    ],
)
def test_other_networks_are_refused(edit, refused, change, message):
    edit("config.json", change)
    refused(message)


def test_settings_that_the_reference_ignores(source, edit, folder):
    """Its configuration classes take any key, and these change nothing there."""
    transformer = dict(num_key_value_heads=4, rope_theta=1.0, head_dim=7)
    edit("config.json", lambda c: c["audio_model"]["audio_transformer"].update(transformer))
    edit("config.json", lambda c: c.update(architectures=["PEAudioFrame"]))
    out = convert(str(source), source.parent / "out")
    assert (out / "config.json").read_text() == (folder / "config.json").read_text()


def test_it_has_its_own_text_encoder(refused):
    refused("leave out --text-encoder", text_encoder="t5-base")


def test_a_missing_tokenizer(source, refused):
    (source / "tokenizer.json").unlink()
    refused("holds no tokenizer.json")


def test_a_name_of_the_hub_and_its_branch(original, monkeypatch, tmp_path):
    """The name stands for a repo's branch, of which only the files that are needed are loaded."""
    repo = "facebook/pe-a-frame-large"
    files = {path.name: path.read_bytes() for path in original.iterdir() if path.is_file()}
    with Hub() as hub:
        hub.add(repo, {"config.json": b"{}"})
        commit = hub.add(repo, {**files, "large.bin": b"0"}, branch="perception_models")
        pointed_at(hub, monkeypatch, tmp_path / "cache")
        for name in ("pe-a-frame-large", repo):
            convert(name, tmp_path / "out", force=True)
        assert hub.downloaded() == ["config.json", "model.safetensors", "tokenizer.json"]
    told = read_json(tmp_path / "out" / "source.json")["checkpoint"]
    assert (told["repo"], told["revision"]) == (repo, commit)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, golden, meta, dtype):
    predictor = SpanPredictor.from_pretrained(
        convert(str(ORIGINAL), tmp_path / "half", dtype=dtype)
    )
    predictor.network.set_dtype(getattr(mx, dtype))  # the CPU would compute in float32
    rows = predictor.probabilities(golden["latents"], meta["prompts"])
    whole = golden["probabilities"][:1]  # the others are padded
    assert rows.dtype == mx.float32 and mx.abs(rows[:1] - whole).max().item() < 0.1


def test_it_is_not_taken_for_a_separation_model(folder, store):
    with pytest.raises(SAMAudioError, match="--hf-path pe-a-frame-large"):
        SpanPredictor.from_pretrained()
    shutil.copytree(folder, store / span_predictor.NAME)
    with pytest.raises(SAMAudioError, match="no converted model"):
        choice.largest_that_fits(None, 10)
    assert SpanPredictor.from_pretrained().config.channels == 16


def test_a_damaged_tokenizer(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    manifest.write(broken)
    with pytest.raises(SAMAudioError, match="tokenizer.json is not a tokenizer"):
        SpanPredictor.from_pretrained(broken)
    (broken / "tokenizer.json").unlink()
    manifest.write(broken)
    with pytest.raises(SAMAudioError, match="holds no tokenizer.json: convert the model again"):
        SpanPredictor.from_pretrained(broken)
