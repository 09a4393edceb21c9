"""Shares a converted model on the hub, with its licence, origin and checksums."""

from collections.abc import Callable
from pathlib import Path

from mlx_sam_audio.command.terminal import agreed
from mlx_sam_audio.engine import memory
from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.loading import manifest
from mlx_sam_audio.loading.hub import place, said
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.models.config import KINDS
from mlx_sam_audio.models.sam_audio import ModelConfig

CARD = """---
library_name: mlx-sam-audio
tags: [mlx, audio, audio-separation]
{licence}---

# {name}

{kind} for mlx-sam-audio, converted from {origin} by {converter}, {precision}.

    mlx-sam-audio recording.wav -d "a dog barking" -m {name}

{notes}

| file | bytes | sha256 |
|---|---|---|
{sums}
"""


def check(repo: str) -> None:
    """Can something be put into a repo of that name? Raises SAMAudioError."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if place(repo) != (repo, None, None):
            raise HFValidationError
        validate_repo_id(repo)
    except HFValidationError:
        raise SAMAudioError(f"--upload-repo {repo}: name it like owner/name") from None
    if not get_token():
        raise SAMAudioError("--upload-repo: log in with `hf auth login` first, or set HF_TOKEN")


def upload(folder: Path, repo: str, tell: Callable[[str], object]) -> None:
    """Put the files of a converted model into a hub repo, in one commit, if the user agrees."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    entries = manifest.read(folder)
    if not any(name.startswith("LICENSE") for name in entries):
        raise SAMAudioError(f"{folder} holds no LICENSE, with which alone it may be passed on")
    size = memory.text(sum(entry.bytes for entry in entries.values()))
    address = f"{constants.ENDPOINT}/{repo}"
    if not agreed(f"upload {size} of {folder.name} to {address}, for everybody to see?"):
        tell("nothing was uploaded")
        return
    files = {name: folder / name for name in (*sorted(entries), manifest.NAME)}
    operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    operations.append(CommitOperationAdd("README.md", card(folder, repo).encode()))
    with said(repo, to_do="upload"):
        HfApi().create_repo(repo, exist_ok=True)
        HfApi().create_commit(repo, operations, commit_message=f"{folder.name} for mlx-sam-audio")
    tell(f"uploaded {address}")


def card(folder: Path, repo: str) -> str:
    """The page of the repo."""
    config, source = read_json(folder / "config.json"), read_json(folder / "source.json")
    separates, checkpoint = config["model_type"] == ModelConfig.model_type, source["checkpoint"]
    known, notes = checkpoint.get("known"), []
    if separates:
        model = ModelConfig.from_dict(config, folder / "config.json")
        notes.append(
            f"Its checkpoint is {known}'s, by its sha256."
            if known
            else "Its checkpoint is not known to be one of Meta's files."
        )
        if model.missing:
            notes.append(f"It lacks {model.lacks}.")
    notes.append("LICENSE is that of the original, which passing it on needs.")
    bits = config.get("quantisation")
    precision = f"in {bits['bits']} bits" if bits else f"in {config['dtype']}"
    revision = f" at {checkpoint['revision']}" if checkpoint.get("revision") else ""
    licence = "license: other\nlicense_name: sam-license\nlicense_link: LICENSE\n"
    return CARD.format(
        name=repo,
        licence=licence if separates else "",
        kind=KINDS[config["model_type"]].capitalize(),
        origin=f"{checkpoint['repo']}{revision}",
        converter=source["converter"],
        precision=precision,
        notes=" ".join(notes),
        sums="\n".join(
            f"| {name} | {entry.bytes} | {entry.sha256} |"
            for name, entry in sorted(manifest.read(folder).items())
        ),
    )
