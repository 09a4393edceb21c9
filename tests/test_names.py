"""What is asked for, and how its results are called."""

import pytest

from mlx_sam_audio import SAMAudioError, Span
from mlx_sam_audio.command import jobs, names, options, prompts
from mlx_sam_audio.command.prompts import Prompt, asked


def results(*arguments: str) -> dict[str, tuple]:
    """Slugs of results, and what they are made of: targets, the rest, the recording."""
    read = options.read(["mix.wav", *arguments])
    found = names.results(read, asked(read))
    return {one.slug: (*one.targets, one.rest, one.recording) for one in found}


def test_descriptions_become_parts_of_names():
    texts = "A dog, barking!", "Größe/../x", "  ", "Ünï\u0308", "a" * 99
    assert [names.slug(text) for text in texts] == [
        *("a-dog-barking", "größe-x", "", "ünï", "a" * 60)
    ]


def test_every_result_is_a_sum_of_stems():
    half = 10 ** (-6 / 20)
    assert results("-d", "dog") == {"dog": (1, 0, 0), "without-dog": (0, 1, 0)}
    assert results("-d", "dog", "--only", "residual", "--mix") == {
        "without-dog": (0, 1, 0),
        "mixture": (0, 0, 1),
    }
    assert results("-d", "a", "-d", "b") == {
        "a": (1, 0, 0, 0),
        "b": (0, 1, 0, 0),
        "rest": (0, 0, 1, 0),
    }
    assert results("--remove", "a siren") == {"without-a-siren": (0, 1, 0)}
    assert results("--remove", "a", "--remove", "b", "--bed", "-6dB") == {
        "less-a-and-b": (half, half, 1, 0)
    }
    assert results("--keep", "speech", "--bed", "-6") == {"keep-speech": (1, half, 0)}
    assert results("--span", "+1:2") == {"target": (1, 0, 0), "residual": (0, 1, 0)}


def test_spans_and_boxes_belong_to_the_prompt_before_them():
    words = "--span +1:2 -d a --span -1:23-1:31 -d b --box 1,2,3,4 --span +3:4 x.wav -d c"
    assert asked(options.read(words.split())) == (
        Prompt("a", (Span("+", 1, 2), Span("-", 83, 91))),
        Prompt("b", (Span("+", 3, 4),), box="1,2,3,4"),
        Prompt("c"),
    )


def test_files_stand_anywhere():
    read = options.read("a.wav -d dog b.wav -i c.wav d.wav --only target e.wav -".split())
    assert sorted(read.inputs) == ["-", "a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]


def test_presets_are_files_that_anybody_can_add(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (store / "presets").mkdir(parents=True)
    (store / "presets/birds.txt").write_text("# of mine\n\na wren  # small\na crow\n")
    (tmp_path / "here.txt").write_text("\ufeffa gull\n", encoding="utf-8")
    assert prompts.preset("band") == ["vocals", "drums", "bass", "guitar", "piano"]
    assert prompts.preset("birds") == ["a wren", "a crow"]
    assert prompts.preset("here.txt") == ["a gull"]
    read = options.read("x.wav -d dog --preset birds --span +1:2".split())
    assert [prompt.description for prompt in asked(read)] == ["dog", "a wren", "a crow"]
    assert asked(read)[2].spans == (Span("+", 1, 2),)
    (store / "presets/none.txt").write_text("# nothing")
    with pytest.raises(SAMAudioError, match="holds no prompts"):
        prompts.preset("none")


def test_labels_are_spans_of_the_prompt_that_they_name(tmp_path):
    track = "1.5\t2.5\tDog\n\\\t100\t200\n3,0\t4,0\t-cat\n5\t6\tcat\n"
    path = tmp_path / "labels.txt"
    path.write_text(track)
    read = options.read(["x.wav", "-d", "dog", "-d", "cat", "--labels", str(path)])
    dog, cat = asked(read)
    assert dog.spans == (Span("+", 1.5, 2.5),)
    assert cat.spans == (Span("-", 3, 4), Span("+", 5, 6))
    (only,) = asked(options.read(["x.wav", "-d", "owl", "--labels", str(path)]))
    assert [span.sign for span in only.spans] == ["+", "-", "+"]
    for line, message in (("1\t2\tcow", "none of the prompts dog, cat"), ("2\t1\tdog", "line 1"),
                          ("one", "no start and end")):  # fmt: skip
        path.write_text(line)
        with pytest.raises(SAMAudioError, match=message):
            asked(read)


def test_a_table_gives_each_file_its_prompts(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text('file;prompt;spans\na/x.wav;dog;"+1:2; -5-6"\ny.wav;cat;\na/x.wav;owl;\n')
    first, second = jobs.table(path)
    assert first.prompts == (
        Prompt("dog", (Span("+", 1, 2), Span("-", 5, 6))),
        Prompt("owl"),
    )
    assert (first.source.path, str(first.source.folder)) == (tmp_path / "a/x.wav", "a")
    assert second.prompts == (Prompt("cat"),) and second.source.path == tmp_path / "y.wav"
    for text, message in (
        ("\n", "the first line"),
        ("file,prompt\n", "names no recordings"),
        ("file,prompt,mood\nx.wav,dog,good\n", "the first line"),
        ("file,prompt\nx.wav,\n", "line 2 of .*the prompt is empty"),
        ("file,prompt\nx.wav,dog,cat\n", "line 2 of .*columns"),
        ("file,prompt,spans\nx.wav,dog,1\n", "line 2 of .*cannot read the span"),
    ):
        path.write_text(text)
        with pytest.raises(SAMAudioError, match=message):
            jobs.table(path)
