"""Public test sets become folders of items: on small trees of their layouts."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from clips import RATE, av, clip, grey

from benchmarks import mixtures
from benchmarks.evaluation.dataset import Dataset
from benchmarks.evaluation.prepare import dcase, prepare, sam_audio_bench, sounds
from mlx_sam_audio import SAMAudioError, SAMAudioWarning
from mlx_sam_audio.media import video_files
from mlx_sam_audio.media.video import matched

ROOT = Path(__file__).parent.parent


def wav(path, level=0.25, rate=8000, samples=4000, channels=1, seed=0):
    """Noise of 16 bits, which floats hold exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-level, level, (samples, channels))
    soundfile.write(path, noise, rate, subtype="PCM_16")
    return soundfile.read(path, dtype="float32")[0]


def table(path, *rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def sound(path):
    return soundfile.read(path, dtype="float32")[0]


def told(out, id) -> dict:
    return json.loads((out / id / "prompt.json").read_text())


def tree(out) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def facts(out) -> dict:
    return json.loads((out / "dataset.json").read_text())


# demo


def test_the_demo_has_all_that_is_known_of_the_same_mixtures(tmp_path):
    prepare("demo", [], tmp_path / "a", items=12, seconds=1.0, seed=3)
    dataset = Dataset.read(tmp_path / "a")
    drawn = mixtures.items(12, 3, 1.0)
    assert len(dataset.items) == 12 and dataset.facts.metric_rate == 16000
    assert {item.told.spans_tell for item in dataset.items} == {True, False}
    for item, made in zip(drawn, dataset.items, strict=True):
        words = item.phrase, item.other, item.absent, item.family, item.intermittent
        keys = ("description", "other", "absent", "label", "spans_tell")
        assert words == tuple(getattr(made.told, key) for key in keys)
        assert item.spans == made.spans
        for name in ("mixture", "target", "residual"):
            np.testing.assert_array_equal(sound(made.folder / f"{name}.wav"), getattr(item, name))


def test_another_rate_draws_the_same_mixtures():
    pairs = zip(mixtures.items(4, 1, 0.5), mixtures.items(4, 1, 0.5, 48000), strict=True)
    for a, b in pairs:
        assert (a.phrase, a.other, a.absent, a.spans) == (b.phrase, b.other, b.absent, b.spans)
        np.testing.assert_array_equal(mixtures.resample(a.target, 48000), b.target)


KILLED = """
import os, sys
from benchmarks.evaluation.prepare import demo, prepare
write, files = demo.sound_files.write, []
def then_die(path, *rest):
    write(path, *rest)
    files.append(path)
    if len(files) == 8:  # the second file of the third item
        os.kill(os.getpid(), 9)
demo.sound_files.write = then_die
prepare("demo", [], sys.argv[1], items=4, seconds=0.5)
"""


def test_a_killed_one_goes_on_and_makes_the_same_bytes(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    prepare("demo", [], whole, items=4, seconds=0.5)
    done = subprocess.run([sys.executable, "-c", KILLED, stopped], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    there = sorted(path.name for path in stopped.iterdir() if not path.name.startswith("."))
    assert there == sorted(path.name for path in whole.iterdir())[:2]
    assert all(tree(stopped / name) == tree(whole / name) for name in there)
    stamps = {name: (stopped / name / "mixture.wav").stat().st_mtime_ns for name in there}
    prepare("demo", [], stopped, items=4, seconds=0.5)
    assert tree(stopped) == tree(whole)  # nor is anything left of what was half written
    assert stamps == {name: (stopped / name / "mixture.wav").stat().st_mtime_ns for name in there}


@pytest.mark.parametrize("change", [{"seed": 1}, {"items": 2}, {"seconds": 0.6}])
def test_a_folder_of_another_dataset_is_not_mixed_with_it(tmp_path, change):
    prepare("demo", [], tmp_path, **{"items": 3, "seconds": 0.5})
    before = tree(tmp_path)
    with pytest.raises(SAMAudioError, match="was made of something else"):
        prepare("demo", [], tmp_path, **{"items": 3, "seconds": 0.5, **change})
    assert tree(tmp_path) == before


def test_a_full_disk_is_not_a_missing_item(tmp_path, monkeypatch):
    def full(*_):
        raise SAMAudioError("cannot write: the disk is full")

    monkeypatch.setattr("benchmarks.evaluation.prepare.demo.sound_files.write", full)
    monkeypatch.setattr("benchmarks.evaluation.prepare.collection.disk_is_full", lambda _: True)
    with pytest.raises(SAMAudioError, match="full"):
        prepare("demo", [], tmp_path, items=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("demos", []), "no dataset 'demos'"),
        (("musdb", []), "musdb is made of the folder of MUSDB18-HQ: 0 sources"),
        (("musdb", ["/nowhere"]), "no folder /nowhere"),
        (("dcase", ["/nowhere.csv", "/"]), "no file /nowhere.csv"),
    ],
)
def test_what_cannot_be_made_at_all_is_one_sentence(tmp_path, call, said):
    with pytest.raises(SAMAudioError, match=said):
        prepare(*call, tmp_path)


# MUSDB


@pytest.fixture
def musdb(tmp_path) -> Path:
    for track in ("Ann - One", "Böb - Two (Live)"):
        stems = {
            name: wav(tmp_path / "m" / "test" / track / f"{name}.wav", 0.2, 44100, 22050, 2, seed)
            for seed, name in enumerate(("vocals", "drums", "bass", "other"))
        }
        path = tmp_path / "m" / "test" / track / "mixture.wav"
        soundfile.write(path, sum(stems.values()), 44100, subtype="PCM_16")
    return tmp_path / "m"


def test_a_track_is_asked_for_three_stems_and_keeps_its_bytes(tmp_path, musdb):
    report = prepare("musdb", [musdb], tmp_path / "o")
    assert (report.made, report.asked) == (6, 6)
    track, item = musdb / "test" / "Böb - Two (Live)", tmp_path / "o" / "böb-two-live-drums"
    for name, file in (("mixture", "mixture"), ("target", "drums")):
        assert (item / f"{name}.wav").samefile(track / f"{file}.wav")  # not once more on the disk
    rest = sum(sound(track / f"{name}.wav") for name in ("vocals", "bass", "other"))
    np.testing.assert_allclose(sound(item / "residual.wav"), rest, atol=1e-7)
    prompt = told(tmp_path / "o", item.name)
    assert prompt["group"] == track.name and prompt["class"] == prompt["description"] == "drums"
    assert Dataset.read(tmp_path / "o").facts.metric_rate == 44100
    # the folder of tracks itself is as good
    assert prepare("musdb", [musdb / "test"], tmp_path / "o", items=1, seed=0).made == 6


def test_where_links_are_impossible_files_are_copied(tmp_path, musdb, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError("no links")))
    prepare("musdb", [musdb], tmp_path / "o")
    a, b = tmp_path / "o" / "ann-one-bass" / "target.wav", musdb / "test" / "Ann - One" / "bass.wav"
    assert not a.samefile(b) and a.read_bytes() == b.read_bytes()


def test_damaged_and_missing_stems_are_told_and_made_when_they_are_there(tmp_path, musdb):
    track, out = musdb / "test" / "Ann - One", tmp_path / "o"
    vocals, drums = ((track / f"{name}.wav").read_bytes() for name in ("vocals", "drums"))
    (track / "vocals.wav").unlink()
    report = prepare("musdb", [musdb], out)
    assert (report.made, report.asked) == (3, 6)
    assert "3 of 6 items are there" in (lines := list(report.lines()))
    assert any("ann-one-drums is missing" in line and "vocals.wav" in line for line in lines)
    assert json.loads((out / "missing.json").read_text()) == report.missing
    assert {row["id"][:8] for row in report.missing} == {"ann-one-"}
    assert report.missing[0]["settings"] == {"musdb": "text"}
    assert not list(out.glob("ann*")) and not list(out.glob(".*"))

    (track / "vocals.wav").write_bytes(vocals)
    (track / "drums.wav").write_bytes(drums[:-8000])  # shorter than its header says
    assert {row["id"] for row in prepare("musdb", [musdb], out).missing} == {
        *("ann-one-vocals", "ann-one-drums", "ann-one-bass")
    }
    (track / "drums.wav").write_bytes(drums)
    assert prepare("musdb", [musdb], out).missing == []
    assert json.loads((out / "missing.json").read_text()) == []


def windows(path):
    return table(
        path,
        ["id", "start_time", "end_time", "description"],
        ["Ann - One", "0.1", "0.3", "vocals"],
        ["Ann - One", "0.1", "0.3", "vocals"],
        ["Böb - Two (Live)", "0.2", "0.4", "Electric Guitar"],
        ["Böb - Two (Live)", "7", "14", "bass"],
        ["../m/Ann - One", "0", "1", "bass"],
        ["Nobody - Nothing", "0", "1", "bass"],
    )


def test_excerpts_are_cut_alike_from_mixture_and_stem(tmp_path, musdb):
    out = tmp_path / "o"
    report = prepare("sam-audio-musdb", [windows(tmp_path / "w.csv"), musdb], out)
    assert (report.made, report.asked) == (3, 6)
    first, again = out / "ann-one-0-1-vocals", out / "ann-one-0-1-vocals-2"
    for name, file in (("mixture", "mixture"), ("target", "vocals")):
        cut = sound(musdb / "test" / "Ann - One" / f"{file}.wav")[4410:13230]
        np.testing.assert_array_equal(sound(first / f"{name}.wav"), cut)
    assert tree(first) == tree(again) and not (first / "residual.wav").exists()
    item = Dataset.read(out).items[0]
    target, rest = item.truth(44100, 2)
    others = sum(
        sound(musdb / "test" / "Ann - One" / f"{n}.wav") for n in ("drums", "bass", "other")
    )
    np.testing.assert_allclose(rest.T, others[4410:13230], atol=1e-4)  # 16 bits
    guitar = out / "böb-two-live-0-2-electric-guitar"
    assert not (guitar / "target.wav").exists()  # no stem is called so
    assert told(out, guitar.name)["description"] == "Electric Guitar"
    why = " ".join(row["why"] for row in report.missing)
    assert "0.0 s of sound at 7 s" in why and "is no name of a file in" in why and "no file" in why
    assert told(out, first.name)["settings"] == {"instr-pro": "text"}


# AudioSep


def simple(header, row, folder):
    """A set whose sounds are called by number: two rows, of which the second has no mixture."""

    def make(root):
        wav(root / folder / "segment-0.wav")
        wav(root / folder / "mixture-0.wav", seed=1)
        wav(root / folder / "segment-1.wav")
        return table(root / "x.csv", header.split(","), ["0", *row], ["1", *row])

    return make


def vggsound(root):
    row = ["a+++b", *(f"data/{kind}/a+++b.wav" for kind in ("mix_wav", "s0_wav")), "Playing Horn"]
    row += ["data/s1_wav/a+++b.wav", "sea lion"]
    for path in (row[1], row[2], row[4]):
        wav(root / path)
    lost = [cell.replace("+++b", "+++c") for cell in row]
    return table(
        root / "v.csv", "file_id,mix_wav,s0_wav,s0_text,s1_wav,s1_text".split(","), row, lost
    )


def audioset(root):
    start = "evaluation/data/audioset/class_id=0/class_id=0,index=00"
    for kind in ("source", "mixture"):
        wav(root / f"class_id=0/class_id=0,index=000,{kind}.wav")
    rows = [["0", "Speech", f"{start}{i},source.wav", f"{start}{i},mixture.wav"] for i in (0, 1)]
    return table(root / "a.csv", ["idx", "caption", "src_wav", "noise_wav"], *rows)


SHARED = "idx,caption,src_wav,noise_wav"
SETS = {
    "audiocaps": (
        simple("idx,caption,labels,src_wav,noise_wav", ["A Dog, barking", "Dog", "s", "n"], ""),
        *("mean", "0000-a-dog-barking", {"description": "A Dog, barking", "group": "s"}),
    ),
    "clotho": (
        simple("idx,caption,src_wav,noise_wav1,noise_wav1", ["Rain.", "s", "n", "m"], "clotho"),
        *("mean", "0000-rain", {"description": "Rain.", "group": "s"}),
    ),
    "music": (
        simple(SHARED, ["violin", "Yab_c_3.wav", "Yxx_1.wav"], "music"),
        *("macro-mean", "0000-violin", {"class": "violin", "group": "Yab_c"}),
    ),
    "esc50": (
        simple(SHARED, ["dog", "1-100032-A-0.wav", "5-207836-D-29.wav"], "."),
        *("mean", "0000-dog", {"class": "dog", "group": "100032"}),
    ),
    "vggsound": (
        *(vggsound, "mean", "a-b-playing-horn"),
        {"description": "Playing Horn", "other": "sea lion", "group": "a"},
    ),
    "audioset": (
        *(audioset, "class-median-mean", "000-000-speech"),
        {"class": "Speech", "description": "Speech"},
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_each_csv_of_audiosep_is_recognised(name, tmp_path):
    make, aggregate, id, keys = SETS[name]
    out, root = tmp_path / "o", tmp_path / "in"
    root.mkdir()
    report = prepare("audiosep", [make(root), root], out)
    dataset = Dataset.read(out)
    assert (dataset.name, dataset.facts.aggregate) == (name, aggregate)
    assert dataset.facts.metric_rate == 32000
    assert (report.made, report.asked) == (1, 2) and dataset.items[0].id == id
    prompt = told(out, dataset.items[0].id)
    assert {key: prompt.get(key) for key in keys} == keys
    assert dataset.items[0].settings == report.missing[0]["settings"] == {name: "text"}
    target, residual = dataset.items[0].truth(8000, 1)
    assert target.shape == residual.shape == (1, 4000)


def test_strange_columns_rows_and_lengths_are_told(tmp_path):
    path = table(tmp_path / "x.csv", ["a", "b"], ["1", "2"])
    with pytest.raises(SAMAudioError, match="columns a,b: known are idx,caption,labels"):
        prepare("audiosep", [path, tmp_path], tmp_path / "o")
    table(path, SHARED.split(","), ["0", "a thing", "s", "n"])
    with pytest.raises(SAMAudioError, match="audioset, music, esc50, but rows of none"):
        prepare("audiosep", [path, tmp_path], tmp_path / "o")
    table(path, SHARED.split(","), ["0", "dog"])
    with pytest.raises(SAMAudioError, match="row 1: 2 values for 4 columns"):
        prepare("audiosep", [path, tmp_path], tmp_path / "o")
    make = simple(SHARED, ["violin", "s", "n"], "")
    make(tmp_path)
    wav(tmp_path / "mixture-1.wav", samples=3999)
    report = prepare("audiosep", [tmp_path / "x.csv", tmp_path], tmp_path / "o")
    assert "has 4000 samples at 8000 Hz, mixture-1.wav 3999" in report.missing[0]["why"]
    for path in (tmp_path / "mixture-1.wav", tmp_path / "segment-1.wav"):
        wav(path, samples=12000)
        path.write_bytes(path.read_bytes()[:14044])  # both break off, at the same sample
    report = prepare("audiosep", [tmp_path / "x.csv", tmp_path], tmp_path / "o")
    assert "ends after 0.9 s, where its header promises 1.5 s" in report.missing[0]["why"]


# DCASE


@pytest.mark.parametrize(("snr", "level"), [(-3, 0.1), (6, 0.1), (-20, 0.5)])
def test_a_mixture_has_the_ratio_asked_for_and_never_clips(snr, level):
    rng = np.random.default_rng(0)
    source, noise = (rng.uniform(-level, level, 4000).astype(np.float32) for _ in range(2))
    target, mixture = dcase.mixed(source, noise, snr)
    added = mixture.astype(float) - target
    ratio = 10 * np.log10(np.mean(target.astype(float) ** 2) / np.mean(added**2))
    assert ratio == pytest.approx(snr, abs=1e-4) and mixture.dtype == np.float32
    np.testing.assert_allclose(
        added / np.linalg.norm(added), noise / np.linalg.norm(noise), atol=1e-5
    )
    if snr == -20:  # it would clip
        assert np.abs(mixture).max() == pytest.approx(0.9, abs=1e-6)
        assert 0 < target[0] / source[0] < 1
    else:
        np.testing.assert_array_equal(target, source)


def test_dcase_is_mixed_at_16_khz_as_the_baseline_does(tmp_path):
    a, root = wav(tmp_path / "in/a.wav", 0.1, 32000, 8001, channels=2), tmp_path / "in"
    b = wav(root / "b.wav", 0.3, 16000, 4001, seed=1)
    wav(root / "short.wav", rate=16000, samples=3000)
    soundfile.write(root / "silent.wav", np.zeros(4001), 16000)
    rows = [["a", "b", "3", "A Dog, barking"], ["a", "b", "2.5", "dog"], ["a", "short", "0", "dog"]]
    rows += [["a", "silent", "0", "dog"], ["a", "gone", "0", "dog"]]
    path = table(tmp_path / "v.csv", ["source", "noise", "snr", "caption"], *rows)
    report = prepare("dcase", [path, root], tmp_path / "o")
    # by hand: mean of the channels, soxr HQ, 4000.5 samples rounded up to 4001
    source = np.append(soxr.resample(a.mean(axis=1), 32000, 16000, "HQ"), np.float32(0))[:4001]
    gain = np.sqrt(np.mean(source.astype(float) ** 2) / 10**0.3 / np.mean(b.astype(float) ** 2))
    item = tmp_path / "o" / "0000-a-dog-barking"
    np.testing.assert_allclose(sound(item / "target.wav"), source, atol=1e-7)
    np.testing.assert_allclose(sound(item / "mixture.wav"), source + gain * b, atol=1e-6)
    assert soundfile.info(item / "mixture.wav").samplerate == 16000
    assert told(tmp_path / "o", item.name)["description"] == "A Dog, barking"
    whys = [row["why"] for row in report.missing]
    said = ["'2.5', not a whole number", "4001 samples, its noise 3000", "silent", "no file"]
    assert all(text in why for text, why in zip(said, whys, strict=True))
    with pytest.raises(SAMAudioError, match="has the columns a, not source,noise,snr,caption"):
        prepare("dcase", [table(path, ["a"], ["b"]), root], tmp_path / "p")


# SAM-Audio-Bench


def ramp(seconds) -> np.ndarray:
    return np.linspace(-0.5, 0.5, round(seconds * RATE), dtype=np.float32)


def film(path, seconds=2.0, **more):
    """Frame i is of the grey 8 i; the sound is a tone that becomes louder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(2 * np.pi * 500 * np.arange(round(seconds * RATE)) / RATE) * ramp(seconds)
    return clip(path, int(10 * seconds), 10, sound=tone.astype(np.float32), **more)


def npz(mask) -> bytes:
    file = io.BytesIO()
    np.savez(file, video_masklet=mask)
    return file.getvalue()


def row(video, tags, start=0.5, end=1.5, dataset="vggsound", words="Dog barking", mask=None):
    return {
        **dict(video_id=video, source_dataset=dataset, start_offset=start, end_offset=end),
        **dict(description=words, spans=[[0.25, 0.5], [0.9, 1.0078], [1.5, 2.0]]),
        **dict(mask_bytes=mask, paper_eval_sets=tags),
    }


@pytest.fixture
def bench(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    def make(*rows, name="test-0.parquet"):
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / name)
        return tmp_path / "data"

    return make


def test_sound_is_cut_from_the_users_videos(tmp_path, bench):
    videos, out = tmp_path / "v", tmp_path / "o"
    film(videos / "vggsound" / "whole.mp4")
    film(videos / "cut_500_1500.mp4", 1.0)  # flat, and the second name that is tried
    film(videos / "audioset" / "other.00000500_00001500.mp4", 1.0)
    (videos / "vggsound" / "text.mp4").write_text("no video")
    tags = ["others-50:text-only", "others:text-only", "others-50:text+span", "spk:span-only"]
    source = bench(
        row("whole", tags),
        row("whole", tags, words="Dog growling"),
        row("cut", tags[:1]),
        row("other", tags[:1], dataset="audioset"),
        row("gone", tags[:1]),
        row("text", tags[:1]),
        row("whole", tags[:1], start=1.9, end=9.0),
        row("../whole", tags[:1]),
        row("nowhere", []),
    )
    bench(row("whole", ["music-50:text-only"]), name="train-0.parquet")  # of another split
    report = prepare("sam-audio-bench", [source, videos], out)
    assert report.settings == {
        **{"sfx": (4, 8), "sfx-full": (2, 2), "sfx-span": (2, 2), "speaker-span-only-full": (2, 2)}
    }
    assert "sfx: 4 of 8" in report.lines()
    whys = {row["id"]: row["why"] for row in report.missing}
    assert "there is no gone.mp4 in" in whys["vggsound-gone-0-5-dog-barking"]
    assert "text.mp4: it is no sound" in whys["vggsound-text-0-5-dog-barking"]
    assert "0.1 s of sound at 1.9 s, not 7.1 s" in whys["vggsound-whole-1-9-dog-barking"]

    item = out / "vggsound-whole-0-5-dog-barking"
    (heard,) = [sound(item / "mixture.wav")]
    source = np.concatenate([p for p, *_ in sounds.audio.decoded(videos / "vggsound/whole.mp4")])
    assert heard.shape == (RATE,) and soundfile.info(item / "mixture.wav").samplerate == RATE
    delay = round(video_files.sound_start(videos / "vggsound/whole.mp4") * RATE)
    np.testing.assert_array_equal(heard, source[RATE // 2 - delay :][:RATE, 0])
    prompt = told(out, item.name)
    assert prompt["spans"] == [["+", 0.25, 0.5], ["+", 0.9, 1.0]]  # clamped; one lies behind
    assert prompt["group"] == "vggsound/whole" and prompt["description"] == "Dog barking"
    assert prompt["settings"] == {
        **{"sfx": "text", "sfx-full": "text", "sfx-span": "text+span"},
        "speaker-span-only-full": "span",
    }
    assert len(sound(out / "vggsound-cut-0-5-dog-barking" / "mixture.wav")) >= RATE
    assert (out / "audioset-other-0-5-dog-barking").is_dir() and len(Dataset.read(out).items) == 4


def test_a_clip_starts_where_its_sound_does_and_the_mask_is_laid_over_it(tmp_path, bench):
    videos, out = tmp_path / "v", tmp_path / "o"
    film(videos / "vggsound" / "a.mp4")
    film(videos / "vggsound" / "silent.mp4")
    clip(videos / "vggsound" / "b.mp4", sound=ramp(2), pictures=False)
    mask = np.zeros((4, 24, 32), np.uint8)  # fewer frames, and half as large
    mask[2:, :4, :8] = 1
    tags = ["others-50:text-only", "others-onscreen-50:visual-only"]
    source = bench(
        row("a", tags, start=0.55, mask=npz(mask)),
        row("b", tags, mask=npz(mask)),
        row("b", tags[1:], start=0.0, mask=npz(mask)),
        row("silent", tags, mask=npz(0 * mask)),
        row("silent", tags, start=0.0),
    )
    report = prepare("sam-audio-bench", [source, videos], out)
    assert report.settings == {"sfx": (4, 4), "sfx-visual": (1, 5)}
    assert [row["id"] for row in report.missing] == ["vggsound-b-0-0-dog-barking"]
    assert {row["why"].split(": ")[-1] for row in report.lacking} >= {
        *("the table's mask marks nothing", "the table has no mask")
    }
    assert any("b.mp4 has no video" in row["why"] for row in report.lacking)
    assert prepare("sam-audio-bench", [source, videos], out) == report  # of what is kept, too
    prepare("sam-audio-bench", [source, videos], tmp_path / "again")
    assert tree(out) == tree(tmp_path / "again")
    assert not (out / "vggsound-b-0-5-dog-barking" / "clip.mp4").exists()

    item = next(i for i in Dataset.read(out).items if i.id == "vggsound-a-0-55-dog-barking")
    assert item.settings == {"sfx": "text", "sfx-visual": "text+visual"}
    masked = item.prompt("text+visual")["video"]
    frames = list(video_files.decoded(masked.frames))
    # of 10 a second: the frame that is shown at 0.55 s, and those that start before 1.5 s
    assert [grey(video_files.rgb(frame)) for _, frame in frames] == list(range(5, 15))
    np.testing.assert_allclose(
        [time for time, _ in frames], [0, *np.arange(0.05, 0.9, 0.1)], atol=1e-4
    )
    assert masked.mask.shape == (10, 48, 64)
    # linspace(0, 3, 10) rounded: 0 0 1 1 1 2 2 2 3 3
    assert [m.any() for m in masked.mask] == [False] * 5 + [True] * 5
    assert masked.mask[9, :8, :16].all() and masked.mask[9].sum() == 8 * 16
    hidden = [picture for picture, _ in matched(masked, np.arange(9) / 10)][-1]
    assert hidden[:, :8, :16].max() == 0 and hidden[:, 12, 2].min() > 240


def test_times_stay_what_they_are_where_sound_starts_late(tmp_path):
    path = film(tmp_path / "a.mp4", sound_start=0.25)
    delay = video_files.sound_start(path)
    heard, rate = sounds.cut(path, 0.1, 0.6)
    silence = round((delay - 0.1) * rate)
    assert delay > 0.2 and heard.shape == (rate // 2,) and not heard[:silence].any()
    whole = np.concatenate(list(sounds.audio.blocks(path, rate)))
    np.testing.assert_array_equal(heard[silence:], whole[: rate // 2 - silence])


def test_colours_and_the_way_up_survive_the_cut(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as new:
        stream = new.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709, which films of this size do not have
        image = np.zeros((48, 64, 3), np.uint8)
        image[:24] = 200, 40, 30
        for _ in range(3):
            new.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        new.mux(stream.encode(None))
    count, height, width = sam_audio_bench.clip(path, 0.0, 1.0, tmp_path / "b.mp4")
    assert (count, height, width) == (3, 48, 64)
    old, new = (
        [video_files.rgb(f) for _, f in video_files.decoded(tmp_path / n)]
        for n in ("a.mp4", "b.mp4")
    )
    assert np.abs(np.array(old, int) - np.array(new, int)).max() <= 4


def test_only_some_settings_and_tables_that_do_not_fit(tmp_path, bench):
    videos = tmp_path / "v"
    film(videos / "a.mp4")
    source = bench(row("a", ["others-50:text-only", "instr-50:text-only", "odd:thing"]))
    with pytest.warns(SAMAudioWarning, match="left out: odd:thing"):
        report = prepare("sam-audio-bench", [source, videos], tmp_path / "o", settings=["sfx"])
    assert report.settings == {"sfx": (1, 1)}
    with pytest.raises(SAMAudioError, match="no setting 'music': it has instr-wild, sfx"):
        prepare("sam-audio-bench", [source, videos], tmp_path / "p", settings=["music"])
    with pytest.raises(SAMAudioError, match="has no column description"):
        prepare("sam-audio-bench", [bench({"video_id": "a"}), videos], tmp_path / "p")
    with pytest.raises(SAMAudioError, match="cannot read .*bad.parquet"):
        (tmp_path / "bad.parquet").write_text("nothing")
        prepare("sam-audio-bench", [tmp_path / "bad.parquet", videos], tmp_path / "p")


def test_windows_may_be_a_parquet(tmp_path, musdb, bench):
    keys = ("id", "start_time", "end_time", "description")
    source = bench(dict(zip(keys, ("Ann - One", 0.1, 0.3, "vocals"), strict=True)))
    assert prepare("sam-audio-musdb", [source, musdb], tmp_path / "o").made == 1
    assert facts(tmp_path / "o")["aggregate"] == "mean"
