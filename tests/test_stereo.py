"""Two channels and several prompts: the same in every method, and what goes with them."""

import json
import warnings

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from benchmarks.parity import relative_error
from mlx_sam_audio import SAMAudio, SAMAudioError, Settings, Span
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.engine import presence
from mlx_sam_audio.ranking.metrics import si_sdr

RATE = 1000
WAVE = np.random.default_rng(0).normal(0, 0.1, (2, 1_600)).astype(np.float32)
FEW = dict(method="euler", steps=2)
LONG = dict(window=0.4, overlap=0.1, **FEW)
BOTH = dict(stereo="both")
# a model of random weights hears what it is not asked for, and noise is not in the middle
alike, hollow = "are much the same sound", "left and right cancel"
pytestmark = pytest.mark.filterwarnings(f"ignore:.*({alike}|{hollow})")


def joined(pieces) -> list[np.ndarray]:
    pairs = ((piece.target, piece.residual) for piece in pieces)
    return [
        np.concatenate(list(map(np.array, stems)), axis=-1) for stems in zip(*pairs, strict=True)
    ]


def total(stems) -> np.ndarray:
    return sum(np.array(stem.target) for stem in stems) + np.array(stems.rest)


@pytest.mark.parametrize("stereo", ["mid", "both"])
def test_every_method_gives_two_channels_that_add_up(toy, stereo):
    options = dict(stereo=stereo)
    results = [
        toy.separate(WAVE, "dog", **FEW, **options),
        toy.separate_long(WAVE, "dog", **LONG, **options),
        toy.separate(WAVE, "dog", **FEW, **options, candidates=2),
        toy.separate(WAVE, "dog", **FEW, **options, gate=True, absent=0),
        *toy.separate_batch([WAVE], ["dog"], **FEW, **options),
    ]
    stems = [[np.array(one.target), np.array(one.residual)] for one in results]
    stems.append(joined(toy.stream(WAVE, "dog", **LONG, **options)))
    stems.append(joined(toy.prepare(WAVE, "dog", **LONG, **options)))
    for target, residual in stems:
        assert target.shape == residual.shape == WAVE.shape
        assert np.abs(target + residual - WAVE).max() < 1e-6
    assert np.array_equal(stems[1][0], stems[-1][0])  # separate_long and prepare
    assert np.array_equal(stems[0][0], stems[4][0])  # separate and separate_batch


def test_mono_is_the_mean_whatever_else_there_is(toy):
    mono = toy.separate(WAVE.mean(axis=0), "dog", **FEW)
    assert mx.array_equal(toy.separate(WAVE, "dog", **FEW).target, mono.target)


def test_both_hears_what_each_channel_alone_gives(toy):
    """One noise and one prompt for left and right, encoded and solved as rows."""
    run = toy.prepare(WAVE, "dog", seed=3, **BOTH, **FEW)
    together = run.solved(run.conditions(), run.takes)
    for row, channel in enumerate(WAVE):
        alone = toy.prepare(channel, "dog", seed=3, **FEW)
        state = alone.solved(alone.conditions(), alone.takes)[:, 0]
        assert relative_error(together[:, row], state) < 1e-5


def test_mono_sound_is_heard_once(toy):
    run = toy.prepare(WAVE[0], "dog", **BOTH, **FEW)
    assert len(run.voices) == 1
    (result,) = run.results()
    assert mx.array_equal(result.target[0], result.target[1]) and result.target.shape == (2, 1600)


def test_a_mono_file_is_heard_once(toy, tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE[0], RATE, subtype="FLOAT")
    run = toy.prepare(tmp_path / "a.wav", "dog", **BOTH, **FEW)
    assert len(run.voices) == 1
    expected = toy.separate(WAVE[0], "dog", **BOTH, **FEW)
    assert mx.array_equal(run.results()[0].target, expected.target)


def test_a_file_of_two_channels(toy, tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE.T, RATE, subtype="FLOAT")
    result = toy.separate(tmp_path / "a.wav", "dog", **BOTH, **FEW)
    assert mx.array_equal(result.target, toy.separate(WAVE, "dog", **BOTH, **FEW).target)
    result.save(tmp_path / "target.wav")
    saved, rate = soundfile.read(tmp_path / "target.wav", dtype="float32")
    assert np.array_equal(saved.T, np.array(result.target)) and rate == RATE


def test_a_mixture_of_two_channels_is_encoded_once(toy):
    mixture = toy.encode(WAVE, stereo="both")
    expected = toy.separate(WAVE, "dog", **BOTH, **FEW)
    assert mx.array_equal(toy.separate(mixture, "dog", **BOTH, **FEW).target, expected.target)
    with pytest.raises(SAMAudioError, match='encoded with stereo="both"'):
        toy.separate(mixture, "dog", **FEW)


def test_samples_of_another_rate_are_resampled(toy):
    t = np.arange(6_400) / 4_000
    wave = np.sin(2 * np.pi * 100 * t).astype(np.float32)
    result = toy.separate(wave, "dog", sample_rate=4_000, residual="subtract", **FEW)
    expected = np.sin(2 * np.pi * 100 * np.arange(1_600) / RATE)
    mixture = np.array(result.target + result.residual)
    assert mixture.shape == (1600,) and np.abs(mixture - expected)[100:-100].max() < 1e-3


def test_an_interrupted_run_in_stereo_goes_on(toy, tmp_path):
    whole = toy.separate_long(WAVE, "dog", **BOTH, **LONG)
    asked = iter([False] * 12)
    with pytest.raises(SAMAudioError):
        options = dict(resume=tmp_path / "state", cancel=lambda: next(asked, True))
        toy.separate_long(WAVE, "dog", **BOTH, **LONG, **options)
    assert (tmp_path / "state").exists()
    again = toy.separate_long(WAVE, "dog", **BOTH, **LONG, resume=tmp_path / "state")
    assert mx.array_equal(again.target, whole.target)


def test_presence_hears_both_channels(toy, monkeypatch):
    """A sound in opposite channels, which their sum does not hold, is there."""
    monkeypatch.setattr(presence, "WINDOW", 0.4)
    opposite = np.stack([WAVE[0], -WAVE[0]])
    result = toy.separate(opposite, "dog", **BOTH, **FEW)
    for row, start in zip(result.presence, range(0, 1600, 400), strict=True):
        target = np.array(result.target)[:, start : start + 400]
        expected = 10 * np.log10(
            (target**2).mean() / (opposite[:, start : start + 400] ** 2).mean()
        )
        assert row.level == pytest.approx(expected, abs=1e-3)


def test_a_sound_is_where_any_channel_has_it(toy):
    spans = iter([(Span("+", 0.1, 0.3), Span("+", 0.9, 1.0)), (Span("+", 0.2, 0.5),)])

    def find(latents, descriptions, samples, **windows):
        assert latents.shape[:2] == (2, 200) and descriptions == ["dog"] * 2
        return list(spans)

    result = toy.separate(WAVE, "dog", predict_spans=find, **BOTH, **FEW)
    assert result.spans == (Span("+", 0.1, 0.5), Span("+", 0.9, 1.0))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(stereo="wide"), "stereo must be one of mono, mid, both"),
        (dict(stereo="mid", residual="subtract"), "add up to it already"),
        (dict(residual="share", message=np.zeros((2, 16))), "carry no watermark"),
    ],
)
def test_what_cannot_go_together(options, words):
    with pytest.raises(SAMAudioError, match=words):
        Settings(**options)


def test_more_channels_are_refused_in_stereo(toy):
    with pytest.raises(SAMAudioError, match="two channels, not 3"):
        toy.separate(np.zeros((3, 1600), np.float32), "dog", **BOTH, **FEW)


def test_one_stem_may_be_decoded_alone(toy):
    both = toy.separate(WAVE[0], "dog", **FEW)
    target = toy.separate(WAVE[0], "dog", residual="subtract", **FEW)
    residual = toy.separate(WAVE[0], "dog", residual="alone", **FEW)
    assert relative_error(target.target, both.target) < 1e-6
    assert relative_error(residual.residual, both.residual) < 1e-6
    assert np.abs(np.array(residual.target + residual.residual) - WAVE[0]).max() < 1e-6


@pytest.mark.parametrize("stereo", ["mono", "mid", "both"])
def test_stems_add_up_in_any_order(toy, stereo):
    mixture = WAVE if stereo != "mono" else WAVE.mean(axis=0)
    names = ["dog", "cat", "bird"]
    stems = toy.stems(WAVE, names, stereo=stereo, **LONG)
    assert [stem.description for stem in stems] == names
    assert np.abs(total(stems) - mixture).max() < 1e-6
    turned = toy.stems(WAVE, names[::-1], stereo=stereo, **LONG)
    for stem, other in zip(stems, turned[::-1], strict=True):
        assert relative_error(other.target, stem.target) < 1e-4
    run = toy.prepare_stems(WAVE, names, stereo=stereo, **LONG)
    pieces = list(zip(*run.stems(), strict=True))
    for stem, chunks in zip(stems, pieces, strict=True):
        assert np.array_equal(joined(chunks)[0], np.array(stem.target))
    assert [facts.description for facts in run.stem_facts] == names
    json.dumps([stem.report() for stem in stems], allow_nan=False)


def test_one_stem_is_a_share(toy):
    (stem,) = toy.stems(WAVE, "dog", **FEW)
    alone = toy.separate_long(WAVE, "dog", residual="share", **FEW)
    assert mx.array_equal(stem.target, alone.target)


def test_stems_that_are_not_shared_are_each_prompts_own(toy):
    stems = toy.stems(WAVE, ["dog", "cat"], share=False, **FEW)
    for stem in stems:
        alone = toy.separate_long(WAVE, stem.description, **FEW)
        assert relative_error(stem.target, alone.target) < 1e-5
        assert relative_error(stem.residual, alone.residual) < 1e-5
    with pytest.raises(SAMAudioError, match="no common rest"):
        _ = stems.rest
    with pytest.raises(SAMAudioError, match="own stems are mono"):
        toy.stems(WAVE, ["dog", "cat"], share=False, **BOTH, **FEW)


def test_each_prompt_has_its_spans(toy):
    spans = [[Span("+", 0.1, 0.5)], []]
    stems = toy.stems(WAVE, ["dog", "cat"], spans=spans, share=False, **FEW)
    assert [stem.spans for stem in stems] == [(Span("+", 0.1, 0.5),), ()]
    alone = toy.separate_long(WAVE, "dog", spans=spans[0], **FEW)
    assert relative_error(stems[0].target, alone.target) < 1e-5


def test_the_best_candidate_is_one_for_all_stems(toy):
    """Its seed alone gives the same stems, so that a report repeats them."""
    stems = toy.stems(WAVE, ["dog", "cat"], candidates=3, seed=5, **FEW)
    assert {stem.seed for stem in stems} == {stems[0].seed}
    assert stems[0].score == max(one.score for one in stems[0].candidates)
    again = toy.stems(WAVE, ["dog", "cat"], seed=stems[0].seed, **FEW)
    for stem, other in zip(stems, again, strict=True):
        assert relative_error(other.target, stem.target) < 1e-5


def test_a_gate_gives_the_rest_what_it_silences(toy, monkeypatch):
    monkeypatch.setattr(presence, "WINDOW", 0.4)
    stems = toy.stems(WAVE, ["dog", "cat"], gate=True, absent=1000, **FEW)
    assert not any(np.array(stem.target).any() for stem in stems)
    assert np.abs(np.array(stems.rest) - WAVE.mean(axis=0)).max() < 1e-6


def test_stems_are_saved_by_name(toy, tmp_path):
    stems = toy.stems(WAVE, ["a dog", "cat"], **BOTH, **FEW)
    stems.save(tmp_path, ".flac")
    names = ["a-dog.flac", "cat.flac", "rest.flac"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    saved = sum(soundfile.read(tmp_path / name)[0].T for name in names)
    assert np.abs(saved - WAVE).max() < 3 * 2**-23


@pytest.fixture(scope="module")
def demo() -> SAMAudio:
    return SAMAudio.from_pretrained("demo")


def scene(seed: int, gains: list[tuple[float, float]]) -> tuple[np.ndarray, list[str]]:
    """Images (2, 2, T) of a bird and a bass."""
    rng = sounds.heldout_rng(seed)
    names = ["bird", "bass"]
    clips = np.stack([sounds.clip(name, rng, 2.0) for name in names])
    return np.array(gains, np.float32)[:, :, None] * clips[:, None], names


def test_stereo_keeps_directions(demo):
    images, names = scene(11, [(1, 0), (0.3, 0.9)])
    for stereo, leak in (("mid", -20), ("both", -25)):
        target = np.array(
            demo.separate(images.sum(axis=0), names[0], stereo=stereo, steps=8).target
        )
        assert si_sdr(target[0], images[0, 0]) > 10
        assert 10 * np.log10((target[1] ** 2).sum() / (target[0] ** 2).sum()) < leak


def test_only_both_hears_what_cancels_in_the_middle(demo):
    images, names = scene(11, [(0.7, -0.7), (0.7, 0.7)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = demo.separate(images.sum(axis=0), names[0], stereo="both", steps=8)
    with pytest.warns(UserWarning, match="left and right cancel"):
        mid = demo.separate(images.sum(axis=0), names[0], stereo="mid", steps=8)
    heard, missed = (si_sdr(np.array(x.target).ravel(), images[0].ravel()) for x in (both, mid))
    assert heard > 12 and heard > missed + 8


def test_stems_take_what_is_theirs(demo):
    """And an absent one next to nothing."""
    images, names = scene(11, [(0.9, 0.3), (0.3, 0.9)])
    stems = demo.stems(images.sum(axis=0), [*names, "siren"], stereo="both", steps=8)
    for stem, image in zip(stems[:2], images, strict=True):
        assert si_sdr(np.array(stem.target).ravel(), image.ravel()) > 12
    absent, whole = (float((np.array(x) ** 2).sum()) for x in (stems[2].target, images.sum(axis=0)))
    assert 10 * np.log10(absent / whole) < -25


def test_stems_that_are_alike_are_named(toy):
    with pytest.warns(UserWarning, match="'dog' and 'dog' are much the same sound"):
        first, second = toy.stems(WAVE, ["dog", "dog"], **FEW)
    assert relative_error(first.target, second.target) < 1e-5


def test_a_long_recording_in_one_piece_is_told(toy):
    with pytest.warns(UserWarning, match="separate_long"):
        toy.separate(np.zeros(31 * RATE, np.float32), "dog", method="euler", steps=1)


def test_pieces_of_several_stems_come_together(toy):
    run = toy.prepare_stems(WAVE, ["dog", "cat"], **FEW)
    with pytest.raises(SAMAudioError, match=r"stems\(\)"):
        iter(run)


def test_stems_in_whole_numbers_are_turned_down_alike(toy, tmp_path):
    """So that they still add up, to what the recording is then; and names that are alike count."""
    loud = 20 * WAVE
    stems = toy.stems(loud, ["dog!", "dog"], **BOTH, **FEW)
    notices = stems.save(tmp_path, ".flac")
    assert all("turned down by" in notice for notice in notices) and len(notices) == 3
    names = ["dog-1.flac", "dog-2.flac", "rest.flac"]
    saved = sum(soundfile.read(tmp_path / name)[0].T for name in names)
    gain = (saved * loud).sum() / (loud**2).sum()
    assert gain < 0.9 and np.abs(saved - gain * loud).max() < 1e-5
