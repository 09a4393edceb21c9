"""A model against the reference's goldens, stage by stage: the table of errors.

python -m benchmarks.parity                       the tiny checkpoint of tests/golden
python -m benchmarks.parity -m small --golden F   a real one, against goldens made on CUDA
"""

import json
import os
import re
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import safe_open

from benchmarks import report
from mlx_sam_audio import MaskedVideo, SAMAudio, Separation, Settings, Span
from mlx_sam_audio.engine.run import Item, Run
from mlx_sam_audio.models.sam_audio import Condition

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # an M5 or CUDA would multiply float32 in 11 bits
TINY = Path(__file__).parents[1] / "tests" / "golden" / "tiny"

# relative L2, and the part of resized pixels that may be the next byte; goldens may tell others
TOLERANCES = {"stage": 1e-5, "video": 1e-5, "waveform": 1e-4, "pixels": 0.0}


class Golden:
    """Golden tensors and what is said about them, in the file or in golden.json beside it."""

    def __init__(self, path: str | Path):
        self.tensors = mx.load(str(path))
        with safe_open(path, framework="numpy") as file:
            told = (file.metadata() or {}).get("golden")
        if told is not None:
            self.meta = json.loads(told)
        else:
            told = Path(path).with_name("golden.json").read_text()
            self.tensors, self.meta = translated(self.tensors, json.loads(told))
        self.tolerances = {**TOLERANCES, **self.meta.get("tolerances", {})}

    def __getitem__(self, name: str) -> mx.array:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


TRANSLATED = {
    r"dit\.velocity\.video": "velocity",
    r"dit\.(velocity\..*)": r"\1",
    r"dit\.time": "input.time",
    r"vision\.features": "features",
    r"codec\.message": "input.message",
    r"ode\.(.*)": r"state.\1",
    r"separate\.(.*)\.(target|residual)\.(\d+)": r"\2.\1.\3",
}


def translated(tensors: dict[str, mx.array], meta: dict) -> tuple[dict[str, mx.array], dict]:
    """Goldens of the layout with golden.json in ours: channels last, waveforms of the clips'
    lengths, and one case with a video, named as in vision.safetensors."""
    everyone, cases = list(range(len(meta["prompts"]))), {}
    for name, case in meta["cases"].items():
        items = everyone[:1] if name.startswith("single.") else everyone
        prompt = case["prompt"].removeprefix("single.")
        cases[name] = {**case, "prompt": prompt, "items": items, "waveforms": True}
    shown = [name for name, case in cases.items() if case["prompt"] == "video"]
    made = {}
    for name, value in tensors.items():
        for theirs, ours in TRANSLATED.items():
            name = re.sub(f"^{theirs}$", ours, name)
        if name == "codec.latents":
            value = value.swapaxes(1, 2)
        elif name.startswith("codec.decoded"):
            value = value[:, 0]
        elif name.startswith(("target.", "residual.")):
            stem, case, i = re.fullmatch(r"(\w+)\.(.*)\.(\d+)", name).groups()
            value = value[: meta["lengths"][int(i)]]
            name = f"{stem}.{i}" if case in shown else name
        made[name] = value
    made |= {f"masked.{i}": made[f"input.frames.{i}"] for i in everyone if shown}
    video = [cases.pop(name) for name in shown][:1]
    method = {key: case[key] for case in video for key in ("method", "step_size")}
    # without its resized frames, of which a pixel half way between two bytes makes 2e-5
    tolerances = {"tolerances": {"video": 5e-5}}
    return made, {**tolerances, **meta, **method, "spans": meta["anchors"], "cases": cases}


def relative_error(value, expected) -> float:
    """Relative L2 distance."""
    value, expected = (  # NumPy does not know bfloat16
        np.array(mx.array(x, dtype=mx.float32), dtype=np.float64) for x in (value, expected)
    )
    assert value.shape == expected.shape
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def inputs(golden) -> tuple[list[np.ndarray], list[str], list[list[Span]]]:
    items = range(len(golden.meta["prompts"]))
    waves = [np.array(golden[f"input.audio.{i}"]) for i in items]
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

    padded = np.zeros((len(waves), max(map(len, waves))), np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    errors["latents"] = relative_error(codec.encode(mx.array(padded)), golden["codec.latents"])
    latents, clean = golden["codec.latents"], golden["codec.decoded_clean"]
    marked = golden["codec.decoded_watermarked"]
    errors["clean decode"] = relative_error(codec.decode(latents), clean)
    decoded = codec.decode(latents, golden["input.message"][: len(waves)])
    errors["watermarked decode"] = relative_error(decoded, marked)
    # the mark alone, a hundredth of the sound, is known a hundred times less well
    errors["watermark / 100"] = relative_error(decoded - clean, marked - clean) / 100

    for name, rows in (("text", [()] * len(waves)), ("span", spans)):
        condition = condition_of(model, list(map(Item, waves, prompts, rows)))
        moment = network.moment(golden["input.time"], condition.text)
        velocity = network.velocity(golden["input.noise"], moment, condition)
        errors[f"velocity, {name}"] = relative_error(velocity, golden[f"velocity.{name}"])
    return errors


def condition_of(model: SAMAudio, items: list[Item]) -> Condition:
    """Of a batch, in one piece."""
    run = Run(model, items, Settings())
    return run.conditions().at([(i, 0) for i in range(len(items))], run.windows.size)


def solver_options(case: dict) -> dict:
    """The reference's step size in our words: its last step is shorter if it does not divide 1."""
    step = case["step_size"] if "step_size" in case else 1 / case["steps"]
    times = [min(i * step, 1) for i in range(round(1 / step + 0.499) + 1)]
    return dict(method=case["method"], times=times)


def run(model: SAMAudio, golden, name: str) -> list[Separation]:
    """The case of that name, through the public call."""
    case = golden.meta["cases"][name]
    waves, prompts, spans = inputs(golden)
    items = case["items"]
    frames = -(-max(len(waves[i]) for i in items) // model.hop_length)
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


def visual_goldens(path: Path) -> Golden | None:
    """What goes with a video: in a file beside the other goldens, or among them."""
    beside = path.with_name("vision.safetensors")
    seen = Golden(beside if beside.exists() else path)
    return seen if "features" in seen else None


def videos(seen) -> list[MaskedVideo]:
    """What the reference was shown: frames with a mask, or such as are masked already."""
    return [
        MaskedVideo(*(np.array(seen[name]) for name in names if name in seen))
        for i in range(len(seen.meta["prompts"]))
        for names in [(f"input.frames.{i}", f"input.mask.{i}")]
    ]


def velocity_with_video(model: SAMAudio, golden, seen, given: list[MaskedVideo | None]) -> float:
    """Error of the velocity, where the reference saw `videos(seen)`."""
    waves, prompts, _ = inputs(golden)
    none = [()] * len(waves)
    condition = condition_of(model, list(map(Item, waves, prompts, none, given)))
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
        message=seen["input.message"][: 2 * len(waves)],
        **solver_options(seen.meta),
    )
    errors["waveforms with video, worst"] = max(
        relative_error(getattr(result, stem), seen[f"{stem}.{i}"])
        for i, result in enumerate(results)
        for stem in ("target", "residual")
    )
    return errors


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__, model=None)
    golden = TINY / "golden.safetensors"
    parser.add_argument("--golden", type=Path, default=golden, help="what the reference made")
    options = parser.parse_args(arguments)
    golden = Golden(options.golden)
    with tempfile.TemporaryDirectory() as folder:
        name = options.model
        if name is None:
            from convert.command import convert

            name = convert(str(TINY), Path(folder) / "tiny", dtype="float32")
        model = SAMAudio.from_pretrained(name)
        errors = stages(model, golden)
        errors["waveforms, worst"] = max(waveforms(model, golden).values())
        if (seen := visual_goldens(options.golden)) is not None:
            errors |= visual(model, golden, seen)
    report.head("stage", "relative L2 error")
    for name, error in errors.items():
        report.line(name, f"{error:.1e}")
    report.write(options, errors)


if __name__ == "__main__":
    report.run(main)
