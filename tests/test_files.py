"""Files that appear whole or not at all, alone or together."""

import os
import subprocess
import sys

import pytest

from mlx_sam_audio import SAMAudioError, files


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_two_files_appear_together(tmp_path):
    (tmp_path / "a").write_text("old")
    with files.whole(tmp_path / "a", tmp_path / "b") as (a, b):
        a.write_text("new")
        b.write_text("new")
        assert (tmp_path / "a").read_text() == "old" and not (tmp_path / "b").exists()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"
    assert names(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", ["a", "b"])
def test_where_one_cannot_appear_the_other_is_as_it_was(tmp_path, monkeypatch, links, failing):
    (tmp_path / "a").write_text("old")
    replace = os.replace

    def fail(source, target):
        if os.path.basename(target) == failing and open(source).read() == "new":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    if not links:  # as on exFAT
        monkeypatch.setattr(os, "link", fail_link)
    with pytest.raises(SAMAudioError, match="cannot write .*a and .*b: No space left on device"):
        with files.whole(tmp_path / "a", tmp_path / "b") as parts:
            for part in parts:
                part.write_text("new")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == {"a"}


def fail_link(*arguments, **keywords):
    raise PermissionError(1, "Operation not permitted")


def test_a_body_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.whole(tmp_path / "a") as (part,):
        part.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == set()


def test_what_dead_processes_left_is_removed(tmp_path):
    code = (
        "import os, pathlib, sys; from mlx_sam_audio import files\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "files.part(folder / 'a').write_text('half'); files.part(folder / 'b').mkdir(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (tmp_path / f".elsewhere.{os.getpid()}.0.sam-audio-part").touch()  # of another machine
    mine = files.part(tmp_path / "c")
    mine.touch()
    assert len(names(tmp_path)) == 2 and files.part(tmp_path / "d") != mine and mine.exists()


def test_names_of_any_length_have_parts(tmp_path):
    with files.whole(tmp_path / ("x" * 255)) as (part,):
        part.touch()
    assert names(tmp_path) == {"x" * 255}
