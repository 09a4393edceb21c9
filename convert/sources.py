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
from mlx_sam_audio.loading.hub import download
from mlx_sam_audio.loading.store import expanded, nearest

CHECKPOINT = "checkpoint.pt"
# a repo, perhaps at a revision, and perhaps one of its files
PLACE = re.compile(r"([^/@~.][^/@]*/[^/@]+)(?:@([^/]+))?(?:/([^@]+\.(?:safetensors|pt)))?")
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Source:
    folder: Path
    repo: str | None  # None for a local folder
    revision: str | None  # the commit, for a repo
    asked: str | None = None  # the revision that somebody named
    named: str | None = None  # the file of it that is wanted
    config: str = "config.json"

    @classmethod
    def find(
        cls,
        name: str,
        patterns: list[str],
        revision: str | None = None,
        known: Collection[str] = (),  # repos of one word, and names that might be meant
    ) -> "Source":
        """A folder, a file, a hub repo `owner/name`, or `owner/name@revision/FILE`."""
        path = expanded(name)
        if path.exists():
            if revision is not None:
                raise SAMAudioError(f"{path} is a local folder: --revision is for hub repos")
            if path.is_dir():
                return cls(path, None, None)
            return cls(path.parent, None, None, named=path.name)
        place = PLACE.fullmatch(name)
        if name not in known and not place:
            raise SAMAudioError(f"there is no folder and no repo {name}{nearest(name, known)}")
        repo, at, file = place.groups() if place else (name, None, None)
        if at and revision:
            raise SAMAudioError(f"{name} names a revision already: leave out --revision")
        asked = at or revision
        folder = download(repo, patterns, asked)
        return cls(folder, repo, folder.name, asked, file)

    def __str__(self) -> str:
        return self.repo or str(self.folder)

    def file(self, name: str) -> Path:
        """A file of the folder; one of a repo is downloaded when it is asked for."""
        path = self.folder / name
        if self.repo and not path.is_file():
            download(self.repo, [name], self.revision)
        if not path.is_file():
            raise SAMAudioError(f"{self} holds no {name}")
        return path

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of the files that there are, by name."""
        if self.repo:
            return hub.sizes(self.repo, self.revision, self.folder)
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.is_file()}

    def weights(self) -> list[str]:
        """The names of the files that hold the weights: the one that was named, checkpoint.pt, or
        the only .safetensors, in shards or not."""
        sets: dict[str, list[str]] = {}
        for name in sorted(self.sizes):
            if not name.startswith(".") and name.endswith(".safetensors"):
                shard = SHARD.fullmatch(name)
                sets.setdefault(f"{shard[1]}.safetensors" if shard else name, []).append(name)
        if self.named:
            return next((names for names in sets.values() if self.named in names), [self.named])
        if CHECKPOINT in self.sizes:
            return [CHECKPOINT]
        if not sets:
            raise SAMAudioError(f"{self} holds neither {CHECKPOINT} nor .safetensors")
        first, *others = sets
        if others:
            raise SAMAudioError(
                f"{self} holds no {CHECKPOINT}, but several weights ({', '.join(sets)}): name one, "
                f"as {self}/{first}"
            )
        return sets[first]

    def left(self, names: Collection[str]) -> int:
        """Bytes of files that are still to be downloaded."""
        return sum(self.sizes.get(name, 0) for name in names if not (self.folder / name).is_file())

    def describe(self, *names: str) -> dict:
        return {
            "repo": self.repo or self.folder.resolve().name,
            "revision": self.revision,
            **({"asked": self.asked} if self.asked else {}),
            "sha256": {name: sha256(self.file(name)) for name in names},
        }
