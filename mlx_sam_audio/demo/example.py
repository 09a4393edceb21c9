"""The bundled model on an example: what `python -m mlx_sam_audio.separate --demo` runs."""

import html
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..demo import sounds
from ..errors import SAMAudioError
from ..files import announce, whole
from ..media import sound_files, spectrogram
from ..model import SAMAudio
from ..ranking.metrics import si_sdr

# what is heard, of which the first is wanted
SCENE = {"dog": "a dog barking", "bird": "birds chirping", "engine": "a car engine"}
SEED = 7
SECONDS = 4.0
STEPS = 6
FILES = ("mixture.wav", "target.wav", "residual.wav", "png", "html")
PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>mlx-sam-audio</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
img, audio { width: 100% }
section { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem }
</style>
"""


def run(folder: Path) -> None:
    """Make a scene, separate one sound of it by text; write, show and measure it."""
    start = time.perf_counter()
    announce(*(folder / f"demo.{name}" for name in FILES))
    sources = scene()
    mixture, (description, *others) = sources.sum(0), SCENE.values()
    heard = " and ".join([", ".join([description, *others[:-1]]), others[-1]])
    print(f"a mixture of {heard}; asking for {description!r}")
    model = SAMAudio.from_pretrained("demo")
    result = model.separate(mixture, description, steps=STEPS)
    stems = {
        "mixture": (heard, mixture),
        "target": (description, np.array(result.target)),
        "residual": ("the rest", np.array(result.residual)),
    }
    for name, (_, samples) in stems.items():
        path = folder / f"demo.{name}.wav"
        sound_files.write(path, samples, model.sample_rate)
        print(f"{name:9s} {path}")
    rows = {f"{name}: {title}": [samples] for name, (title, samples) in stems.items()}
    picture = folder / "demo.png"
    try:
        spectrogram.save(picture, rows, len(mixture), model.sample_rate)
        print(f"picture   {picture}")
    except SAMAudioError as error:
        picture = None
        print(f"picture   none: {error}")
    with whole(folder / "demo.html") as (path,):
        path.write_text(page({name: title for name, (title, _) in stems.items()}, picture))
    print(f"page      {folder / 'demo.html'}: all of them beside each other, to open in a browser")
    before, after = (si_sdr(x, sources[0]) for x in (mixture, stems["target"][1]))
    print(f"SI-SDR    {before:.1f} dB before, {after:.1f} dB after")
    print(
        f"time      {time.perf_counter() - start:.1f} s for {SECONDS:g} s of audio, "
        f"{result.evaluations} evaluations; peak memory {mx.get_peak_memory() / 2**20:.0f} MiB"
    )


def scene() -> np.ndarray:
    """The sounds, (K, T), which the model has never heard."""
    rng = sounds.heldout_rng(SEED)
    sources = np.stack([sounds.clip(name, rng, SECONDS) for name in SCENE])
    return sources * min(1, 0.95 / np.abs(sources.sum(0)).max())


def page(titles: dict[str, str], picture: Path | None) -> str:
    """What shows the picture, and plays the stems."""
    image = f'<img src="{picture.name}" alt="spectrograms of the stems">\n' if picture else ""
    players = (
        f'<p>{name}: {html.escape(title)}<audio controls src="demo.{name}.wav"></audio></p>\n'
        for name, title in titles.items()
    )
    return f"{PAGE}<h1>Separated by text</h1>\n{image}<section>\n{''.join(players)}</section>\n"
