"""A video as a prompt, from the public call and from the command."""

from fractions import Fraction

import av
import mlx.core as mx
import numpy as np
import pytest
import soundfile

from benchmarks import parity
from benchmarks.parity import inputs, relative_error
from mlx_sam_audio import MaskedVideo, SAMAudio, SAMAudioError
from mlx_sam_audio.media import audio
from mlx_sam_audio.separate import main

RATE, HOP = 48_000, 1920


@pytest.fixture(scope="module")
def videos(seen) -> list[MaskedVideo]:
    return parity.videos(seen)


@pytest.mark.parity
def test_velocity_and_waveforms(tiny, golden, seen):
    errors = parity.visual(tiny, golden, seen)
    assert errors["velocity, video"] <= seen.tolerances["video"]
    assert errors["waveforms with video, worst"] <= seen.tolerances["waveform"]
    assert parity.velocity_with_video(tiny, golden, seen, [None] * len(parity.videos(seen))) > 1e-2


def test_only_one_item_of_a_batch_has_a_video(tiny, golden, videos):
    waves, prompts, _ = inputs(golden)
    waves = [wave[:19_200] for wave in waves]  # equal lengths: no item depends on the other
    options = dict(method="euler", steps=2, watermark=False)
    both = tiny.separate_batch(waves, prompts, videos=[None, videos[1]], **options)
    alone = [
        tiny.separate(waves[0], prompts[0], seed=0, **options),
        tiny.separate(waves[1], prompts[1], seed=1, video=videos[1], **options),
    ]
    for a, b in zip(both, alone, strict=True):
        assert relative_error(a.target, b.target) < 1e-4


def test_each_stem_has_its_video(tiny, golden, videos):
    waves, prompts, _ = inputs(golden)
    options = dict(method="euler", steps=2, watermark=False)
    wave = waves[1][:19_200]
    stems = tiny.stems(wave, prompts[:2], videos=[None, videos[1]], share=False, **options)
    for stem, video in zip(stems, (None, videos[1]), strict=True):
        alone = tiny.separate_long(wave, stem.description, video=video, **options)
        assert relative_error(stem.target, alone.target) < 1e-4


def test_a_video_is_prompt_enough(tiny, videos):
    wave = np.ones(4 * HOP, np.float32)
    assert tiny.separate(wave, video=videos[0], steps=1).target.shape == wave.shape
    with pytest.raises(SAMAudioError, match="or show it in a video"):
        tiny.separate(wave)


def test_models_that_see_nothing(tiny, toy, videos):
    with pytest.raises(SAMAudioError, match="without a folder"):
        toy.separate(np.ones(80), video=videos[0])
    with pytest.raises(SAMAudioError, match="has no vision"):
        SAMAudio.from_pretrained("demo").separate(np.ones(80), "siren", video=videos[0])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 1.6 s whose light grows, and its sound."""
    path = tmp_path_factory.mktemp("clip") / "a.mkv"
    wave = np.random.default_rng(0).normal(0, 0.1, 40 * HOP).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
        voice = container.add_stream("flac", rate=RATE, layout="mono")
        for i in range(40):
            image = np.full((32, 48, 3), 6 * i, np.uint8)
            image[8:24, 8:24] = 250 - 6 * i
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray((wave[None] * 32768).astype("i2"), "s16", "mono")
        frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    return path


BOX = (8, 8, 24, 24)


@pytest.mark.parametrize("streaming", [False, True])
def test_windows_see_their_part_of_the_video(tiny, clip, monkeypatch, streaming):
    shown, seen, condition = MaskedVideo(clip, BOX), [], tiny.network.condition
    whole = tiny.prepare(clip, video=shown, window=1.2, overlap=0.4).conditions().seen[0][:]
    assert relative_error(whole[0], whole[-1]) > 1e-2

    def spy(*given):
        seen.extend(np.array(given[-1]))
        return condition(*given)

    monkeypatch.setattr(tiny.network, "condition", spy)
    run = tiny.stream if streaming else tiny.separate_long
    result = run(clip, video=shown, window=1.2, overlap=0.4, method="euler", steps=1)
    chunks = list(result) if streaming else [result]
    assert sum(chunk.target.shape[0] for chunk in chunks) == 40 * HOP
    assert len(seen) == 2
    for start, features in zip((0, 10), seen, strict=True):
        assert relative_error(features, whole[start : start + 30]) < 1e-6


def test_a_file_of_one_window_is_its_own_sound(tiny, clip):
    shown, options = MaskedVideo(clip, BOX), dict(method="euler", steps=2)
    short = tiny.separate(clip, "a dog", video=shown, **options)
    long = tiny.separate_long(clip, "a dog", video=shown, window=5, overlap=1, **options)
    assert mx.array_equal(short.target, long.target).item()


def test_the_command(tiny_folder, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shared = ["-i", str(clip), "-m", str(tiny_folder), "--steps", "1", "--method", "euler"]
    assert main([*shared, "--box", "8,8,24,24", "-o", "out.mp4", "--residual", "rest.wav"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "rest.wav"}
    rest, rate = soundfile.read("rest.wav")
    assert rate == RATE and len(rest) == 40 * HOP
    assert len(audio.read("out.mp4", RATE)) == pytest.approx(40 * HOP, abs=2048)
    assert main(["-i", str(clip), "--pick", "sheet.png"]) == 0
    assert main(["-i", str(clip), "--box", "8,8,24,24", "--preview", "box.png"]) == 0
    assert (tmp_path / "sheet.png").stat().st_size and (tmp_path / "box.png").stat().st_size
    capsys.readouterr()
    soundfile.write("mix.wav", rest, RATE)
    for arguments, message in (
        ([*shared, "--box", "8,8,24"], "a box is"),
        ([*shared, "--box", "a,b,c,d"], "cannot read the box 'a,b,c,d'"),
        ([*shared, "--box", "8,8,99,99"], "does not lie inside the frame, which is 48 x 32"),
        ([*shared, "--box", "8,8,24,24", "--mask", "m.png"], "give one of them"),
        ([*shared, "--preview", "p.png"], "draws a --box or a --mask"),
        (["-i", "mix.wav", "-d", "dog", "-o", "out.mov"], "cannot read mix.wav|has no video"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and any(part in error for part in message.split("|"))
