"""A model against the reference's goldens, stage by stage: the table of errors.

python -m benchmarks.parity                       the tiny checkpoint of tests/golden
python -m benchmarks.parity -m small --golden F   a real one, against goldens made on CUDA
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import safe_open

from mlx_sam_audio import MaskedVideo, SAMAudio, Separation, Span

os.environ["MLX_ENABLE_TF32"] = "0"  # an M5 would multiply float32 in 11 bits
TINY = Path(__file__).parents[1] / "tests" / "golden" / "tiny"


class Golden:
    """Golden tensors and what is said about them."""

    def __init__(self, path: str | Path):
        self.tensors = mx.load(str(path))
        with safe_open(path, framework="numpy") as file:
            self.meta = json.loads(file.metadata()["golden"])

    def __getitem__(self, name: str) -> mx.array:
        return self.tensors[name]


def relative_error(value, expected) -> float:
    """Relative L2 distance."""
    value, expected = (  # NumPy does not know bfloat16
        np.array(mx.array(x, dtype=mx.float32), dtype=np.float64) for x in (value, expected)
    )
    assert value.shape == expected.shape
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def inputs(golden) -> tuple[list[np.ndarray], list[str], list[list[Span]]]:
    waves = [np.array(golden[f"input.audio.{i}"]) for i in range(2)]
    spans = [[Span(*span) for span in row] for row in golden.meta["spans"]]
    return waves, golden.meta["prompts"], spans


def stages(model: SAMAudio, golden) -> dict[str, float]:
    """Error of every network alone, each fed with the reference's own input."""
    waves, prompts, spans = inputs(golden)
    network, codec, errors = model.network, model.network.audio_codec, {}
    tokens, mask = model.tokenizer(prompts)
    assert (mask == golden["text.mask"]).all().item()
    text = network.text_encoder(tokens, mask)
    content = golden["text.mask"][..., None]  # nothing reads the features of padding
    errors["text"] = relative_error(text * content, golden["text.features"] * content)

    padded = np.zeros((2, max(map(len, waves))), np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    errors["latents"] = relative_error(codec.encode(mx.array(padded)), golden["codec.latents"])
    latents, clean = golden["codec.latents"], golden["codec.decoded_clean"]
    marked = golden["codec.decoded_watermarked"]
    errors["clean decode"] = relative_error(codec.decode(latents), clean)
    decoded = codec.decode(latents, golden["input.message"][:2])
    errors["watermarked decode"] = relative_error(decoded, marked)
    # the mark alone, a hundredth of the sound, is known a hundred times less well
    errors["watermark / 100"] = relative_error(decoded - clean, marked - clean) / 100

    for name, rows in (("text", [(), ()]), ("span", spans)):
        condition = model.encode(waves, prompts, rows)
        moment = network.moment(golden["input.time"], condition.text)
        velocity = network.velocity(golden["input.noise"], moment, condition)
        errors[f"velocity, {name}"] = relative_error(velocity, golden[f"velocity.{name}"])
    return errors


def solver_options(case: dict) -> dict:
    """The reference's step size in our words: its last step is shorter if it does not divide 1."""
    step = case["step_size"]
    times = [min(i * step, 1) for i in range(round(1 / step + 0.499) + 1)]
    return dict(method=case["method"], times=times)


def run(model: SAMAudio, golden, name: str) -> list[Separation]:
    """The case of that name, through the public call."""
    case = golden.meta["cases"][name]
    waves, prompts, spans = inputs(golden)
    items = case["items"]
    frames = golden[f"state.{name}"].shape[1]
    return model.separate_batch(
        [waves[i] for i in items],
        [prompts[i] for i in items],
        spans=[spans[i] for i in items] if case["prompt"] == "span" else None,
        noise=golden["input.noise"][mx.array(items), :frames],
        message=golden["input.message"][: 2 * len(items)],
        **solver_options(case),
    )


def waveforms(model: SAMAudio, golden) -> dict[str, float]:
    """Error of the final waveforms, through the public call."""
    errors = {}
    for name, case in golden.meta["cases"].items():
        for i, result in enumerate(run(model, golden, name) if case["waveforms"] else ()):
            for stem in ("target", "residual"):
                key = f"{stem}.{name}.{i}"
                errors[key] = relative_error(getattr(result, stem), golden[key])
    return errors


def videos(seen) -> list[MaskedVideo]:
    names = ("frames", "mask")
    return [MaskedVideo(*(np.array(seen[f"input.{name}.{i}"]) for name in names)) for i in range(2)]


def velocity_with_video(model: SAMAudio, golden, seen, given: list[MaskedVideo | None]) -> float:
    """Error of the velocity, where the reference saw `videos(seen)`."""
    waves, prompts, _ = inputs(golden)
    frames = [-(-len(wave) // model.hop_length) for wave in waves]
    features = [model.watch(*item) for item in zip(given, waves, frames, strict=True)]
    condition = model.encode(waves, prompts, [(), ()], seen=features)
    moment = model.network.moment(seen["input.time"], condition.text)
    velocity = model.network.velocity(seen["input.noise"], moment, condition)
    return relative_error(velocity, seen["velocity"])


def visual(model: SAMAudio, golden, seen) -> dict[str, float]:
    """Errors with a video as prompt: `seen` holds what the reference made of it."""
    waves, prompts, _ = inputs(golden)
    errors = {"velocity, video": velocity_with_video(model, golden, seen, videos(seen))}
    results = model.separate_batch(
        waves,
        prompts,
        videos=videos(seen),
        noise=seen["input.noise"],
        message=seen["input.message"],
        method=seen.meta["method"],
        steps=seen.meta["steps"],
    )
    errors["waveforms with video, worst"] = max(
        relative_error(getattr(result, stem), seen[f"{stem}.{i}"])
        for i, result in enumerate(results)
        for stem in ("target", "residual")
    )
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", help="a converted model")
    parser.add_argument("--golden", default=TINY / "golden.safetensors")
    options = parser.parse_args()
    golden = Golden(options.golden)
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            from convert.command import convert

            options.model = convert(str(TINY), Path(folder) / "tiny", dtype="float32")
        model = SAMAudio.from_pretrained(options.model)
        errors = stages(model, golden)
        errors["waveforms, worst"] = max(waveforms(model, golden).values())
        if options.golden == TINY / "golden.safetensors":
            errors |= visual(model, golden, Golden(TINY / "vision.safetensors"))
    print("| stage | relative L2 error |\n|---|---|")
    for name, error in errors.items():
        print(f"| {name} | {error:.1e} |")


if __name__ == "__main__":
    main()
