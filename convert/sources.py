"""Where checkpoints lie: local folders, and repos of the hub, of which as little as possible is
downloaded: first config.json and the list of files, then headers, then what is used."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.files import sha256
from mlx_sam_audio.loading import hub
from mlx_sam_audio.loading.hub import Repo
from mlx_sam_audio.loading.store import expanded, nearest

CHECKPOINT = "checkpoint.pt"
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
SMALL = 4 * 2**20  # bytes that a configuration or licence has at most


@dataclass(frozen=True)
class Source:
    """A local folder or a hub repo."""

    folder: Path
    remote: Repo | None = None
    named: str | None = None  # the file of it that is wanted
    config: str = "config.json"

    @classmethod
    def find(cls, name: str, revision: str | None = None, known: Collection[str] = ()) -> "Source":
        """A folder, a file, a hub repo `owner/name`, or `owner/name@revision/FILE`.

        known: repos of one word, and names that might be meant.
        """
        path = expanded(name)
        if path.exists():
            if revision is not None:
                raise SAMAudioError(f"{path} is a local folder: --revision is for hub repos")
            return cls(path) if path.is_dir() else cls(path.parent, named=path.name)
        place = hub.place(name)
        if name not in known and not place:
            raise SAMAudioError(f"there is no folder and no repo {name}{nearest(name, known)}")
        repo, at, file = place or (name, None, None)
        if at and revision:
            raise SAMAudioError(f"{name} names a revision already: leave out --revision")
        remote = Repo(repo, at or revision)
        return cls(remote.folder, remote, file)

    def __str__(self) -> str:
        return self.repo or str(self.folder)

    @property
    def repo(self) -> str | None:
        return self.remote and self.remote.name

    def file(self, name: str) -> Path:
        """A file of the folder; one of a repo is downloaded when it is asked for."""
        if self.remote:
            return self.remote.get(name)
        path = self.folder / name
        if not path.is_file():
            raise SAMAudioError(f"{self} holds no {name}")
        return path

    def small(self, name: str) -> Path:
        """The same of one that cannot be large."""
        if (size := self.sizes.get(name, 0)) > SMALL:
            raise SAMAudioError(f"{self}/{name} has {size} bytes: more than any such file")
        return self.file(name)

    @property
    def licences(self) -> list[Path]:
        """Its files of that name, but for links to elsewhere."""
        names = [name for name in sorted(self.sizes) if re.fullmatch(r"LICENSE[^/]*", name)]
        inside = self.folder.resolve()
        return [
            self.small(name)
            for name in names
            if self.remote or (self.folder / name).resolve().parent == inside
        ]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of the files that there are, by name."""
        if self.remote:
            return {name: file.size for name, file in self.remote.files.items()}
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.is_file()}

    def weights(self) -> list[str]:
        """The names of the files that hold the weights: the one that was named, checkpoint.pt, or
        the only .safetensors, in shards or not."""
        sets: dict[str, list[str]] = {}
        for name in sorted(self.sizes):
            if name.endswith(".safetensors") and not name.startswith(".") and "/" not in name:
                shard = SHARD.fullmatch(name)
                sets.setdefault(f"{shard[1]}.safetensors" if shard else name, []).append(name)
        if self.named:
            found = next((names for names in sets.values() if self.named in names), [self.named])
        elif CHECKPOINT in self.sizes:
            found = [CHECKPOINT]
        else:
            found = self._only(sets)
        shards = [shard for name in found if (shard := SHARD.fullmatch(name))]
        there = {shard[0] for shard in shards}
        for shard in shards:
            for number in range(1, int(shard[3]) + 1):
                name = f"{shard[1]}-{number:05d}-of-{shard[3]}.safetensors"
                if name not in there:
                    raise SAMAudioError(f"{self} lacks {name}")
        return found

    def _only(self, sets: dict[str, list[str]]) -> list[str]:
        if not sets:
            ends = self.remote.unreached if self.remote else ""
            raise SAMAudioError(f"{self} holds neither {CHECKPOINT} nor .safetensors{ends}")
        first, *others = sets
        if others:
            raise SAMAudioError(
                f"{self} holds no {CHECKPOINT}, but several weights ({', '.join(sets)}): name one, "
                f"as {self}/{first}"
            )
        return sets[first]

    def describe(self, *names: str) -> dict:
        """Where files came from. Raises SAMAudioError if they are not those that the hub lists."""
        sums = {name: sha256(self.file(name)) for name in names}
        for name, found in sums.items():
            listed = self.remote and self.remote.files[name].sha256
            if listed and listed != found:
                raise SAMAudioError(
                    f"{name} of {self} is not what the hub lists, by its sha256: remove "
                    f"{self.folder / name}, and try again"
                )
        if self.remote is None:
            return {"repo": self.folder.resolve().name, "revision": None, "sha256": sums}
        asked = {"asked": self.remote.asked} if self.remote.asked else {}
        return {"repo": self.repo, "revision": self.remote.commit, **asked, "sha256": sums}
