"""What fewer bits cost: size, error against float32, and separation quality of the demo model.

python -m benchmarks.quantisation
"""

from dataclasses import replace

import mlx.core as mx
import numpy as np

from benchmarks import models, quality, report
from mlx_sam_audio import SAMAudio, Settings
from mlx_sam_audio.engine.run import Item, Run
from mlx_sam_audio.models.quantise import QuantisationConfig, quantise
from mlx_sam_audio.ranking.metrics import si_sdr

KINDS = ("float32", "bfloat16", "float16", "8 bits", "6 bits", "4 bits")


def variant(name: str, kind: str, group_size: int) -> SAMAudio:
    """The model with weights rounded to `kind`, computing in float32: MLX's CPU backend has only
    scalar half-precision products, and the rounding is what is measured."""
    model = SAMAudio.from_pretrained(name)
    network = model.network
    network.set_dtype(mx.float32)
    if kind.endswith("bits"):
        quantisation = QuantisationConfig(int(kind.split()[0]), group_size)
        quantise(network, quantisation)
        config = replace(model.config, quantisation=quantisation)
        return SAMAudio(config, network, model.tokenizer)
    network.set_dtype(getattr(mx, kind))
    network.set_dtype(mx.float32)
    return model


def solve(model: SAMAudio, items: list, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States (B, N, 2C) and targets (B, T) of the items' text prompts."""
    waves = [item.mixture for item in items]
    settings = Settings(steps=steps, residual="subtract", watermark=False)
    run = Run(model, [Item(item.mixture, item.phrase) for item in items], settings)
    x = run.solved(run.conditions(), run.seeds)
    targets = np.stack([stems[0] for stems in run.decoded(x, run.seeds)])
    return x.swapaxes(0, 1), targets[:, : len(waves[0])]


def snr(x: np.ndarray, exact: np.ndarray) -> float | None:
    """In dB, unless they are equal."""
    if np.array_equal(x, exact):
        return None
    return float(10 * np.log10(np.square(exact).sum() / np.square(x - exact).sum()))


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__, model="demo", mixtures=32, seed=0, steps=8)
    parser.add_argument("--group-size", type=int, default=64, help="weights of one scale")
    options = parser.parse_args(arguments)
    rate = SAMAudio.from_pretrained(options.model).sample_rate
    items = quality.items(options.mixtures, options.seed, 2.0, rate)
    rows, exact = {}, None
    for kind in KINDS:
        model = variant(options.model, kind, options.group_size)
        states, targets = [], []
        for i in range(0, len(items), quality.BATCH):
            state, target = solve(model, items[i : i + quality.BATCH], options.steps)
            states.append(np.array(state))
            targets.append(target)
        state, targets = np.concatenate(states), np.concatenate(targets)
        exact = exact or (state, targets)
        gains = [
            si_sdr(t, i.target) - si_sdr(i.mixture, i.target)
            for t, i in zip(targets, items, strict=True)
        ]
        near = [si_sdr(t, e) for t, e in zip(targets, exact[1], strict=True)]
        rows[kind] = {
            "latent_snr": snr(state, exact[0]),
            "waveform_si_sdr": float(np.median(near)),
            "sdri": float(np.mean(gains)),
            "small_gib": size_of("small", kind) / 2**30,
        }
    sounds = ("latent SNR", "SI-SDR to float32", "SI-SDR improvement")
    report.head("weights", "SAM-Audio small", *sounds)
    for kind, row in rows.items():
        near = ["exact", "exact"]
        if row["latent_snr"] is not None:
            near = [f"{row[key]:.1f} dB" for key in ("latent_snr", "waveform_si_sdr")]
        report.line(kind, f"{row['small_gib']:.2f} GiB", *near, f"{row['sdri']:.2f} dB")
    report.write(options, rows)


def size_of(size: str, kind: str) -> int:
    """Bytes of a published size, its unquantised part in float16."""
    bits = int(kind.split()[0]) if kind.endswith("bits") else None
    return models.weights(models.build(size, "float16" if bits else kind, bits))


if __name__ == "__main__":
    report.run(main)
