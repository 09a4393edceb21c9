"""The bundled model on an example: what `python -m mlx_sam_audio.separate --demo` runs."""

import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..demo import sounds
from ..errors import SAMAudioError
from ..media import sound_files, spectrogram
from ..model import SAMAudio
from ..ranking.metrics import si_sdr

SEED = 6
SECONDS = 3.0
STEPS = 6


def run(folder: Path) -> None:
    """Make a mixture, separate one sound of it by text, write and measure both."""
    start = time.perf_counter()
    example = sounds.mixture(sounds.heldout_rng(SEED), SECONDS, count=2)
    name, source = example.names[0], example.sources[0]
    description = sounds.FAMILIES[name].phrases[1]
    print(f"a mixture of {' and '.join(example.names)}; asking for {description!r}")
    model = SAMAudio.from_pretrained("demo")
    result = model.separate(example.mixture, description, steps=STEPS)
    stems = {
        "mixture": example.mixture,
        "target": np.array(result.target),
        "residual": np.array(result.residual),
    }
    for title, samples in stems.items():
        path = folder / f"demo.{title}.wav"
        sound_files.write(path, samples, model.sample_rate)
        print(f"{title:9s} {path}")
    try:
        picture = folder / "demo.png"
        rows = {
            f"{title}: {text}" if text else title: [stems[title]]
            for title, text in zip(
                stems, (" and ".join(example.names), description, ""), strict=True
            )
        }
        spectrogram.save(picture, rows, len(source), model.sample_rate)
        print(f"picture   {picture}")
    except SAMAudioError as error:
        print(f"picture   none: {error}")
    before, after = si_sdr(example.mixture, source), si_sdr(stems["target"], source)
    print(f"SI-SDR    {before:.1f} dB before, {after:.1f} dB after")
    print(
        f"time      {time.perf_counter() - start:.1f} s for {SECONDS:g} s of audio, "
        f"{result.evaluations} evaluations; peak memory {mx.get_peak_memory() / 2**20:.0f} MiB"
    )
