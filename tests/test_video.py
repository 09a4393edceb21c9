"""Videos as prompts: their frames, and what is hidden in them."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from clips import RATE, av, beeps, clip, grey, turned

from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.media import frames, preview, video, video_files
from mlx_sam_audio.media.video import MaskedVideo

TIMES = np.arange(25) / 25


def shown(masked: MaskedVideo, times) -> list[int]:
    """The number of the frame that each latent frame sees."""
    pairs = list(video.matched(masked, np.asarray(times)))
    return list(itertools.chain(*([grey(frame)] * count for frame, count in pairs)))


def test_frames_of_a_file(tmp_path):
    path = clip(tmp_path / "a.mp4")
    assert shown(MaskedVideo(path), TIMES) == list(range(25))
    (frame, count), *_ = video.matched(MaskedVideo(path), TIMES)
    assert frame.shape == (3, 48, 64) and frame.dtype == np.uint8 and count == 1
    assert frame[:, 4, 4].min() > 240 and frame[:, 40, 60].max() < 6


@pytest.mark.parametrize("rate", [10, 24, 60])
def test_other_frame_rates(tmp_path, rate):
    path = clip(tmp_path / "a.mkv", count=rate // 2, rate=rate)
    times = np.arange(20) / 25  # beyond the end: the last frame stays
    expected = frames.nearest(np.round(np.arange(rate // 2) / rate, 3), times)
    assert shown(MaskedVideo(path), times) == expected.tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_frame_rate(tmp_path, name):
    moments = np.array([0, 0.04, 0.3, 0.32, 0.33, 0.7, 0.9])
    path = clip(tmp_path / name, count=7, times=moments)
    assert shown(MaskedVideo(path), TIMES) == frames.nearest(moments, TIMES).tolist()


def test_frames_one_by_one_are_matched_as_all_at_once():
    generator = np.random.default_rng(0)
    for _ in range(200):
        moments = np.sort(generator.random(generator.integers(1, 9))) * 2
        counts = [count for _, count in video.counted(zip(moments, range(9)), TIMES)]  # noqa: B905
        nearest = np.bincount(frames.nearest(moments, TIMES), minlength=len(moments))
        assert counts == nearest.tolist()


def test_only_frames_that_are_needed_are_converted(tmp_path, monkeypatch):
    path, converted = clip(tmp_path / "a.mkv", rate=100), []
    real = video.rgb
    monkeypatch.setattr(video, "rgb", lambda frame: converted.append(1) or real(frame))
    assert len(shown(MaskedVideo(path), np.arange(5) / 25)) == len(converted) == 5


def test_frames_are_read_as_far_as_they_are_asked_for(tmp_path, monkeypatch):
    path, read, real = clip(tmp_path / "a.mkv"), [], video.rgb
    monkeypatch.setattr(video, "rgb", lambda frame: read.append(1) or real(frame))
    monkeypatch.setattr(frames, "BATCH", 5)
    rows = video.Features(
        lambda batch: (batch[:, 0, -1:, -1] + 4) // 8, 48, MaskedVideo(path), TIMES
    )
    assert len(rows) == 25 and not read
    assert rows[2:7].tolist() == [[i] for i in range(2, 7)] and len(read) == 10
    assert rows[0:3].tolist() == [[i] for i in range(3)] and len(read) == 10
    assert rows[:].tolist() == [[i] for i in range(25)] and len(read) == 25


def test_a_frame_that_is_shown_twice_is_encoded_once(tmp_path):
    path, seen = clip(tmp_path / "a.mkv", count=5, rate=10), []

    def encoder(batch):
        seen.append(len(batch))
        return (batch[:, 0, -1:, -1] + 4) // 8

    times = np.arange(13) / 25
    rows = video.Features(encoder, 48, MaskedVideo(path), times)[:]
    assert seen == [5]
    assert rows[:, 0].tolist() == frames.nearest(np.arange(5) / 10, times).tolist()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video(tmp_path, degrees):
    path = turned(clip(tmp_path / "a.mp4", count=3), degrees)
    frame, _ = next(video.matched(MaskedVideo(path), TIMES[:1]))
    plain, _ = next(video.matched(MaskedVideo(clip(tmp_path / "b.mp4", count=3)), TIMES[:1]))
    assert np.array_equal(frame, np.rot90(plain, -degrees // 90, axes=(1, 2)))


def test_ten_bits(tmp_path):
    path = clip(tmp_path / "a.mp4", pix_fmt="yuv420p10le")
    assert shown(MaskedVideo(path), TIMES) == list(range(25))


def test_times_count_from_the_videos_own_sound(tmp_path):
    path = clip(tmp_path / "a.mkv", sound=beeps(0.5, [0]), sound_start=0.41)
    other = clip(tmp_path / "b.m4a", sound=beeps(0.5, [0]), pictures=False)
    for sound, expected in (
        (path, [10, 11, 12]),
        (other, [0, 1, 2]),
        (TIMES, [0, 1, 2]),
    ):
        assert shown(video.aligned(MaskedVideo(path), sound), TIMES[:3]) == expected
    assert shown(MaskedVideo(path, start=0.8), TIMES[:3]) == [20, 21, 22]


def test_frames_in_an_array_are_spread():
    array = np.stack([np.full((3, 16, 16), 8 * i, np.uint8) for i in range(5)])
    assert shown(MaskedVideo(array), np.arange(9)) == [0, 0, 1, 2, 2, 2, 3, 4, 4]


ARRAY = np.full((3, 3, 48, 64), 200, np.uint8)
MASK = np.zeros((1, 48, 64), bool)
MASK[0, 10:20, 30:50] = True


def masked(mask, source=ARRAY) -> list[np.ndarray]:
    return [frame for frame, _ in video.matched(MaskedVideo(source, mask), np.arange(3) / 25)]


def picture(path, image):
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *image.shape, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.stack([image] * 3, axis=-1), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def mask_clip(path, masks):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *masks[0].shape, "yuv444p"
        for mask in masks:
            image = np.stack([255 * mask.astype(np.uint8)] * 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_the_thing_is_hidden_as_in_the_reference():
    from benchmarks.parity import TINY, Golden

    golden = Golden(TINY / "vision.safetensors")
    for i in range(2):
        inputs = (np.array(golden[f"input.{name}.{i}"]) for name in ("frames", "mask"))
        pairs = list(video.matched(MaskedVideo(*inputs), np.arange(40)))
        assert np.array_equal(np.stack([frame for frame, _ in pairs]), golden[f"masked.{i}"])


def test_every_kind_of_mask_hides_the_same(tmp_path):
    expected = np.where(MASK, 0, ARRAY[0])
    kinds = [
        MASK,
        255 * MASK.astype(np.uint8),
        np.repeat(MASK, 3, axis=0),
        (30, 10, 50, 20),
        picture(tmp_path / "mask.png", 255 * MASK[0].astype(np.uint8)),
        mask_clip(tmp_path / "mask.mp4", [MASK[0]] * 3),
    ]
    for mask in kinds:
        for frame in masked(mask):
            assert np.array_equal(frame, expected)
    assert np.array_equal(masked(None)[0], ARRAY[0])


def test_a_mask_that_moves(tmp_path):
    masks = [np.roll(MASK[0], 3 * i, axis=1) for i in range(5)]
    path = clip(tmp_path / "a.mp4", count=5)
    for mask in (np.stack(masks), mask_clip(tmp_path / "mask.mp4", masks)):
        for i, frame in enumerate(masked(mask, path)):
            assert np.array_equal((frame == 0).all(axis=0) & masks[i], masks[i])
            assert (frame[:, :10, :20] > 0).all()


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.zeros((1, 48, 64), bool), "mask is empty"),
        (np.ones((1, 40, 64), bool), "mask is 64 x 40 pixels, the frame 64 x 48"),
        (np.ones((2, 48, 64), bool), "mask has fewer frames"),
        (np.ones((4, 48, 64), bool), "mask has more frames"),
        (np.ones((48, 64), bool), "a mask must be bool or uint8"),
        (np.ones((1, 48, 64)), "a mask must be bool or uint8"),
        ((0, 0, 65, 48), r"box \(0, 0, 65, 48\) does not lie inside the frame, which is 64 x 48"),
        ((5, 5, 5, 9), "a box is"),
        ((-1, 5, 5, 9), "a box is"),
        ((1.5, 2, 3, 4), "a box is"),
        ("nowhere.png", "there is no file nowhere.png"),
    ],
)
def test_masks_that_do_not_fit(tmp_path, mask, message):
    for source in (ARRAY, clip(tmp_path / "a.mp4", count=3)):
        with pytest.raises(SAMAudioError, match=message):
            masked(mask, source)


def test_an_empty_mask_in_a_file(tmp_path):
    path = picture(tmp_path / "black.png", np.zeros((48, 64), np.uint8))
    with pytest.raises(SAMAudioError, match="mask is empty"):
        masked(path)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 8, 8)), np.zeros((3, 8, 8), np.uint8), np.zeros((0, 3, 8, 8), "u1")]
)
def test_arrays_that_are_no_video(array):
    with pytest.raises(SAMAudioError, match="frames"):
        MaskedVideo(array)


class Silent:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("key", ["frames", "mask", "start"])
def test_values_of_any_kind(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    values = [
        *(None, True, -1, 10**400, -(10**5000), 0.5, np.nan, np.inf, 1j, "", "x\0", "\ud800", b"x"),
        *(
            "a" * 5000,
            "a/" * 3000,
            "/dev/null",
            [],
            [0, 0, 4, 4],
            (0, 0, 4, 4),
            (0, 0, 10**5000, 4),
        ),
        *((0.0, 0.0, 4.0, 4.0), (None,) * 4, (Silent(),) * 4, ("a",) * 4, {}, object, Silent()),
        *(tuple(np.int64([0, 0, 4, 4])), np.float32(2), np.array([0, 0, 4, 4]), np.array(None)),
        *(np.zeros((1, 8, 8), object), np.array([[["a"]]]), np.ones((2, 8, 8), bool)),
        *(np.zeros((0, 3, 8, 8), "u1"), np.zeros((2, 3, 0, 8), "u1"), ARRAY[:2], mx.zeros(3)),
    ]
    fitting = 0
    for value in values:
        given = dict(frames=np.ones((2, 3, 8, 8), np.uint8), mask=(0, 0, 4, 4), start=0.0)
        try:
            pairs = list(video.matched(MaskedVideo(**{**given, key: value}), TIMES))
        except SAMAudioError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            fitting += 1
            assert sum(count for _, count in pairs) == len(TIMES)
    assert 0 < fitting < 6


def test_sound_that_starts_before_the_video(tmp_path):
    path = clip(tmp_path / "a.mp4")
    assert shown(MaskedVideo(path, start=-0.09), TIMES[:5]) == [0, 0, 0, 1, 2]


def test_files_that_are_no_video(tmp_path):
    clip(tmp_path / "sound.mp4", pictures=False, sound=beeps(0.5, [0]))
    (tmp_path / "text.mp4").write_text("not a film")
    (tmp_path / "empty.mp4").touch()
    for name, message in (
        ("sound.mp4", "sound.mp4 has no video"),
        ("text.mp4", "cannot read .*text.mp4: it is no sound"),
        ("empty.mp4", "is empty"),
        ("none.mp4", "there is no file"),
    ):
        for read in (
            lambda path: masked(None, path),
            lambda path: preview.contact_sheet(path, tmp_path / "sheet.png"),
            lambda path: video_files.remux(path, beeps(0.5, [0]), RATE, tmp_path / "out.mp4"),
        ):
            with pytest.raises(SAMAudioError, match=message):
                read(tmp_path / name)
    assert not list(tmp_path.glob("*out*")) and not (tmp_path / "sheet.png").exists()


def test_a_preview_dims_all_but_the_thing(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(preview, "sketch", lambda axes, title, frame: drawn.append(frame))
    preview.preview(MaskedVideo(ARRAY, MASK), tmp_path / "preview.png")
    assert np.array_equal(drawn[0], np.where(MASK, ARRAY[0], ARRAY[0] // 3))


@pytest.mark.parametrize("times", [None, [0, 0.041, 0.3, 0.323, 0.331, 0.777, 0.9]])
def test_a_preview_has_the_frames_from_which_a_box_was_picked(tmp_path, monkeypatch, times):
    drawn = []
    monkeypatch.setattr(preview, "sketch", lambda axes, *shot: drawn.append(shot))
    monkeypatch.setattr(preview, "save", lambda *picture: None)
    path = clip(tmp_path / "a.mp4", len(times or range(25)), times=times)
    preview.contact_sheet(path, tmp_path / "sheet.png")
    preview.preview(MaskedVideo(path, (30, 10, 50, 20)), tmp_path / "preview.png")
    titles, frames = zip(*drawn, strict=True)
    assert titles[:9] == titles[9:]
    for picked, marked in zip(frames[:9], frames[9:], strict=True):
        assert np.array_equal(marked[:, 10:20, 30:50], picked[:, 10:20, 30:50])
        assert marked[:, 40, 40].mean() <= picked[:, 40, 40].mean() / 2
    assert len({frame[0, 12, 40] for frame in frames}) >= 3  # a fade-in ends
