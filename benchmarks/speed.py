"""Seconds and peak memory of every stage, at the published sizes with random weights.

python -m benchmarks.speed --size small --dtype float32
python -m benchmarks.speed --against torch        the reference, if it can be imported, or its
                                                  sources lie in the folder --reference
python -m benchmarks.speed --against mlx-audio    the other port, if it can be imported

A peer runs in turn with this package (A B A B), each in a process of its own; ratios are of pairs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import machine, report

DTYPES = ("float32", "float16", "bfloat16")
FRAMES = 250  # of one evaluation: 10 s
TOKENS = 8  # of the prompt
STAGES = ("text", "encode", "evaluation", "decode")
WHOLE = (*STAGES, "decode")  # a separation of one step, to see its peak
PROMPT = "a dog barking in the distance"


class Ours:
    def __init__(self, size: str, dtype: str, bits: int | None, seconds: float):
        import mlx.core as mx

        from benchmarks import models

        self.mx, self.frames = mx, round(seconds * 25)
        self.model = models.build(size, dtype, bits)
        self.network = self.model.network
        self.moments = None

    def run(self, stage: str) -> None:
        mx, model, network = self.mx, self.model, self.network
        codec = network.audio_codec
        tokens, mask = mx.ones((1, TOKENS), mx.int32), mx.ones((1, TOKENS), mx.bool_)
        if stage == "text":
            mx.eval(network.text_encoder(tokens, mask))
        elif stage == "encode":
            mx.eval(codec.encode(mx.zeros((1, self.frames * codec.hop_length)) + 0.1))
        elif stage == "whole":
            wave = np.full(self.frames * codec.hop_length, 0.1, np.float32)
            mx.eval(model.separate(wave, PROMPT, method="euler", steps=1).residual)
        elif stage == "decode":  # one stem, as the pipeline does
            mx.eval(codec.decode_clean(mx.zeros((1, self.frames, 128)) + 0.1))
        else:  # with its share of what is made for 16 evaluations at once
            if self.moments is None or self.calls == 16:
                text = network.text_encoder(tokens, mask)
                anchors = mx.zeros((1, FRAMES), mx.int32)
                latents = mx.zeros((1, FRAMES, 128))
                self.condition = network.condition(latents, text, mask, anchors)
                mx.eval(self.condition, network.transformer.parameters())
                start = time.perf_counter()
                self.moments = network.moments([i / 16 for i in range(16)], self.condition.text)
                mx.eval(self.moments)
                self.share, self.calls = (time.perf_counter() - start) / 16, 0
            x = mx.zeros((1, FRAMES, 256))
            mx.eval(model.velocity(x, self.moments[self.calls], self.condition))
            self.calls += 1

    def seconds(self, stage: str) -> float:
        start = time.perf_counter()
        self.run(stage)
        elapsed = time.perf_counter() - start
        return elapsed + (self.share if stage == "evaluation" else 0)

    def peak(self) -> float:
        return self.mx.get_peak_memory() / 2**20

    def reset(self) -> None:
        self.mx.reset_peak_memory()


class Torch:
    """The reference's own modules, without its stages that a text prompt does not need; on the GPU,
    if there is one, with products as exact as MLX's."""

    def __init__(self, size: str, dtype: str, bits: int | None, seconds: float):
        import torch
        from sam_audio.model.codec import DACVAE
        from sam_audio.model.config import DACVAEConfig, TransformerConfig
        from sam_audio.model.transformer import DiT
        from transformers import T5Config, T5EncoderModel

        from benchmarks.models import SIZES

        dim, heads, layers, _ = SIZES[size]
        self.torch, self.dim, self.frames = torch, dim, round(seconds * 25)
        torch.set_num_threads(os.cpu_count())
        self.gpu = torch.cuda.is_available()
        torch.set_default_device("cuda" if self.gpu else "cpu")
        rounded = os.environ.get("MLX_ENABLE_TF32", "1") != "0"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded
        kind = getattr(torch, dtype)
        config = TransformerConfig(dim=dim, n_heads=heads, n_layers=layers, context_dim=dim)
        self.dit = DiT(config).eval().to(kind)
        self.codec = DACVAE(DACVAEConfig()).eval().to(kind)
        t5 = T5Config(vocab_size=32_128, d_model=768, d_kv=64, d_ff=3072, num_layers=12)
        t5.num_heads = 12
        self.text = T5EncoderModel(t5).eval()
        self.kind = kind

    def run(self, stage: str) -> None:
        torch = self.torch
        with torch.inference_mode():
            if stage == "whole":
                for part in WHOLE:
                    self.run(part)
            elif stage == "text":
                self.text(torch.ones((1, TOKENS), dtype=torch.long))
            elif stage == "encode":
                self.codec(torch.full((1, 1, self.frames * 1920), 0.1, dtype=self.kind))
            elif stage == "decode":
                decoder = self.codec.decoder
                z = torch.full((1, 128, self.frames), 0.1, dtype=self.kind)
                with torch.backends.cudnn.flags(enabled=False):  # as its codec says, encoding too
                    hidden = self.codec.quantizer.out_proj(z)
                    for layer in decoder.model:
                        hidden = layer(hidden)
                    decoder.wm_model.encoder_block.forward_no_conv(hidden)
            else:
                x = torch.zeros((1, FRAMES, self.dim), dtype=self.kind)
                memory = torch.zeros((1, TOKENS, self.dim), dtype=self.kind)
                mask = torch.ones((1, TOKENS), dtype=torch.bool)
                t = torch.full((1,), 0.3, dtype=self.kind)
                self.dit(x, t, memory=memory, memory_padding_mask=mask)
            if self.gpu:
                torch.cuda.synchronize()

    def seconds(self, stage: str) -> float:
        start = time.perf_counter()
        self.run(stage)
        return time.perf_counter() - start

    def peak(self) -> float:
        if self.gpu:
            return self.torch.cuda.max_memory_allocated() / 2**20
        return machine.rss(resource.getrusage(resource.RUSAGE_SELF))

    def reset(self) -> None:
        if self.gpu:
            self.torch.cuda.reset_peak_memory_stats()


class MLXAudio:
    """mlx-audio's modules at the same sizes (its presets have others)."""

    def __init__(self, size: str, dtype: str, bits: int | None, seconds: float):
        import mlx.core as mx
        from mlx_audio.codec.models.dacvae.codec import DACVAE, DACVAEConfig
        from mlx_audio.sts.models.sam_audio.config import TransformerConfig
        from mlx_audio.sts.models.sam_audio.text_encoder import T5Config, T5Encoder
        from mlx_audio.sts.models.sam_audio.transformer import DiT

        from benchmarks.models import SIZES

        dim, heads, layers, _ = SIZES[size]
        self.mx, self.dim, self.frames = mx, dim, round(seconds * 25)
        config = TransformerConfig(dim=dim, n_heads=heads, n_layers=layers, context_dim=dim)
        self.dit, self.codec = DiT(config), DACVAE(DACVAEConfig())
        self.text = T5Encoder(T5Config(is_gated_act=False, dense_act_fn="relu"))
        for module in (self.dit, self.codec, self.text):
            module.set_dtype(getattr(mx, dtype))
            module.eval()
        self.kind = getattr(mx, dtype)

    def run(self, stage: str) -> None:
        mx = self.mx
        if stage == "whole":
            for part in WHOLE:
                self.run(part)
        elif stage == "text":
            tokens = mx.ones((1, TOKENS), dtype=mx.int32)
            mx.eval(self.text(tokens, tokens))
        elif stage == "encode":
            mx.eval(self.codec.encode(mx.full((1, self.frames * 1920, 1), 0.1, dtype=self.kind)))
        elif stage == "decode":  # its decoder always marks
            mx.eval(self.codec.decode(mx.full((1, 128, self.frames), 0.1, dtype=self.kind)))
        else:
            x = mx.zeros((1, FRAMES, self.dim), dtype=self.kind)
            memory = mx.zeros((1, TOKENS, self.dim), dtype=self.kind)
            mx.eval(self.dit(x, mx.full((1,), 0.3), memory=memory))

    seconds, peak, reset = Torch.seconds, Ours.peak, Ours.reset


SUBJECTS = {"ours": Ours, "torch": Torch, "mlx-audio": MLXAudio}


def serve(options) -> None:
    """Runs the stages that are named on stdin."""
    if options.reference:
        from benchmarks import reference

        reference.find(options.reference)
    bits = options.bits
    subject = SUBJECTS[options.serve](options.size, options.dtype, bits, options.seconds)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        stage = line.strip()
        subject.reset()
        answer = {"seconds": subject.seconds(stage), "peak": subject.peak()}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    def __init__(self, subject: str, options):
        line = [sys.executable, "-m", "benchmarks.speed", "--serve", subject]
        line += ["--size", options.size, "--dtype", options.dtype]
        line += ["--seconds", str(options.seconds)]
        line += ["--bits", str(options.bits)] if options.bits else []
        if subject == "torch" and options.reference:
            line += ["--reference", str(options.reference)]
        self.subject = subject
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"error: {subject} cannot be set up here")

    def ask(self, stage: str) -> dict[str, float]:
        self.process.stdin.write(stage + "\n")
        self.process.stdin.flush()
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        raise SystemExit(f"error: {self.subject} broke off in {stage}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def load_seconds(options) -> tuple[float, float]:
    """Seconds to a loaded model, and to one whose weights were all read, from a warm cache."""
    import mlx.core as mx

    from benchmarks import models
    from mlx_sam_audio import SAMAudio

    with tempfile.TemporaryDirectory() as folder:
        models.save(models.build(options.size, options.dtype, options.bits), Path(folder))
        times = []
        for _ in range(3):
            start = time.perf_counter()
            model = SAMAudio.from_pretrained(folder)
            loaded = time.perf_counter() - start
            mx.eval(model.network.parameters())
            times.append((loaded, time.perf_counter() - start))
    return tuple(np.median(times, axis=0))


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__, seconds=1.0, repeats=3)
    parser.add_argument(
        "--size", choices=("small", "base", "large"), default="small", help="of the model"
    )
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights")
    parser.add_argument("--bits", type=int, choices=(4, 6, 8), help="quantised weights")
    stages = (*STAGES, "whole")
    parser.add_argument("--stages", nargs="+", choices=stages, default=STAGES, help="to time")
    parser.add_argument("--against", choices=("torch", "mlx-audio"), help="another package")
    parser.add_argument("--reference", type=Path, help="sources of sam-audio and dacvae")
    parser.add_argument("--load", action="store_true", help="also time loading from the disk")
    parser.add_argument("--serve", choices=SUBJECTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        return serve(options)

    names = ["ours"] + ([options.against] if options.against else [])
    workers = [Worker(name, options) for name in names]
    heads = [f"{name}, {unit}" for name in names for unit in ("s", "peak MiB")]
    report.head("stage", *heads, *([f"{options.against} / ours"] if options.against else []))
    rows = {}
    for stage in options.stages:
        for worker in workers:
            worker.ask(stage)
        pairs = [[worker.ask(stage) for worker in workers] for _ in range(options.repeats)]
        cells, rows[stage] = [], {}
        for i, name in enumerate(names):
            seconds = float(np.median([pair[i]["seconds"] for pair in pairs]))
            peak = max(pair[i]["peak"] for pair in pairs)
            rows[stage][name] = {"seconds": seconds, "peak_mib": peak}
            cells += [f"{seconds:.3f}", f"{peak:.0f}"]
        if options.against:
            ratio = float(np.median([b["seconds"] / a["seconds"] for a, b in pairs]))
            rows[stage]["ratio"] = ratio
            cells.append(f"{ratio:.2f}")
        report.line(stage, *cells)
    for worker in workers:
        worker.close()
    if options.load:
        loaded, read = load_seconds(options)
        rows["load"] = {"seconds": loaded, "all_weights_read": read}
        print(f"\nloaded in {loaded:.2f} s, every weight in memory after {read:.2f} s")
    report.write(options, rows)


if __name__ == "__main__":
    report.run(main)
