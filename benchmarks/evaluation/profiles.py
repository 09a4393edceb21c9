"""Settings of the separations: profiles, what is changed of them, what the reference has."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache

from mlx_sam_audio import SAMAudioError, Settings
from mlx_sam_audio.engine.separation import plain

PROFILES = {  # of settings
    "quick": dict(method="ab3", steps=8, window=10.0),
    "reference": dict(method="midpoint", steps=16, candidates=8, ranker="clap:5,judge:1"),
    "best": dict(method="ab3", steps=32, window=10.0, candidates=8, ranker="consensus"),
}
BY_SIGHT = "imagebind"  # the reference's ranker where there is a video
# where this package cannot or should not do as the reference's evaluation does
DEVIATIONS = (
    "recordings are resampled by soxr (VHQ); the reference takes torchaudio's sinc of width 6",
    "noise is drawn from the base seed and the item's id; the reference's has no seed",
    "stems are as long as the recording; the reference's last up to one latent frame longer",
    "CLAP hears what is longer than 10 s in clips spread evenly; the reference's in a random one",
)


def overrides(texts: Sequence[str]) -> dict:
    """Settings as NAME=VALUE, a value in JSON or as a word. Raises SAMAudioError."""
    known, given = {one.name for one in fields(Settings)} - {"seed", "noise", "message"}, {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise SAMAudioError(
                f"--with takes NAME=VALUE of a setting, not {text!r}: {', '.join(sorted(known))}"
            )
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def settings_of(profile: str, texts: Sequence[str]) -> Callable[[str], Settings]:
    """A function from a kind of prompt to the settings of its separations. Raises SAMAudioError."""
    given = overrides(texts)

    @cache
    def of(prompt: str) -> Settings:
        own = dict(PROFILES[profile])
        if profile == "reference" and "visual" in prompt:
            own["ranker"] = BY_SIGHT
        return Settings(**{**own, **given})

    of("text")
    return of


def told(settings: Settings) -> dict[str, object]:
    """Settings for JSON; noise and seeds are each item's own."""
    own = {one.name for one in fields(Settings)} - {"seed", "noise", "message", "max_memory"}
    return {name: plain(getattr(settings, name)) for name in sorted(own)}


def deviations(profile: str, settings: Callable[[str], Settings]) -> list[str]:
    """From the reference's evaluation."""
    ours, theirs = (told(given("text")) for given in (settings, settings_of("reference", ())))
    other = [f"{name} {ours[name]} ({theirs[name]})" for name in ours if ours[name] != theirs[name]]
    found = [f"not the reference's settings: {', '.join(other)}"] if other else []
    return found + (list(DEVIATIONS) if profile == "reference" else [])
