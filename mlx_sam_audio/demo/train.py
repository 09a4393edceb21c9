"""Train the tiny SAM-Audio of the demo on synthetic sounds: the codec, then everything else.

    python -m mlx_sam_audio.demo.train --out RUN [--init MODEL_FOLDER --codec-steps 0]

RUN keeps the state of both stages (the same command goes on from there), a log and, at the end or
on `--export`, the model folder RUN/model. B batch, T samples, N latent frames, C channels.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import sentencepiece
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from .. import config as shapes
from .. import load
from ..conv import Conv1d, StridedConv1d, TransposedConv1d
from ..dacvae import DACVAE, Snake, run
from ..metrics import si_sdr
from ..network import Network
from ..pipeline import SAMAudio
from ..prompts import Span
from ..t5 import END, PAD, Tokenizer
from . import sounds

NAMES = tuple(sounds.FAMILIES)
PHRASES = [(i, phrase) for i, f in enumerate(sounds.FAMILIES.values()) for phrase in f.phrases]
TRAINED = "transformer text_encoder proj memory_proj embed_anchors".split()
CODEC = shapes.CodecConfig(16000, 16, (8, 4, 4), 64, 128, (4, 4, 8), 40, False, ())
TRANSFORMER = shapes.TransformerConfig(192, 4, 4, 512, 192, 64, 1e-5, 10_000, 80)
REUSE = 4  # draws of each encoded mixture's targets
Batch = tuple[mx.array, ...]


def fresh(pieces: Path) -> tuple[shapes.ModelConfig, Network, Tokenizer]:
    """An untrained model, and its tokenizer made of the descriptions."""
    with pieces.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([phrase for _, phrase in PHRASES]),
            model_writer=file,
            vocab_size=120,
            hard_vocab_limit=False,
            character_coverage=1.0,
            **dict(pad_id=PAD, eos_id=END, unk_id=2, bos_id=-1, minloglevel=2),
        )
    tokenizer = Tokenizer(pieces, 512)
    size = sentencepiece.SentencePieceProcessor(model_file=str(pieces)).vocab_size()
    text = shapes.TextConfig(size, 64, 16, 128, 2, 4, 32, 128, 1e-6, 512)
    config = shapes.ModelConfig(CODEC, text, TRANSFORMER, None, None, 3, 32, "float32")
    network = Network(config)
    clips = [sounds.mixture(sounds.training_rng(i)).mixture for i in range(48)]
    klt_start(network.audio_codec, mx.array(np.stack(clips)))
    for layer in network.transformer.layers:  # open the gates a little
        layer.scale_shift_table[mx.array([2, 5])] += 0.5
    network.embed_anchors.gate += 0.5
    network.transformer.output.weight *= 0.5
    return config, network, tokenizer


def klt_start(codec: DACVAE, audio: mx.array) -> None:
    """Make the codec a Karhunen-Loeve transform of blocks of `hop` samples; training goes on there.

    The encoder's strides gather samples, the first by a cosine transform; the principal components
    of what they gather on `audio` (B, T) become the latents. The decoder is the transpose. From
    random weights the codec learns too slowly.
    """
    for _, module in codec.named_modules():
        if isinstance(module, Snake):
            module.alpha = mx.full(module.alpha.shape, 0.1)
        elif isinstance(module, (Conv1d, StridedConv1d, TransposedConv1d)):
            module.weight = 0.02 * module.weight
    first, *stages, _, last = codec.encoder.block
    first.weight[0, 3, 0] = codec.decoder.final[1].weight[0, 3, 0] = 1.0
    used = 1  # channels that carry something
    for stage, mirror in zip(stages, codec.decoder.model[:0:-1], strict=True):
        down, up = stage.block[-1], mirror.block[1]
        stride = down._stride
        k = np.arange(stride)
        matrix = np.eye(stride * used)
        if used == 1:
            matrix = np.cos(np.pi / stride * k[:, None] * (k + 0.5)) * (2 / stride) ** 0.5
            matrix[0] *= 0.5**0.5
        inputs, outputs = stage.block[-2].alpha.size, up.bias.size
        for i in range(stride):
            # the frame's own samples lie in the middle of the kernel of two strides
            tap, place = divmod(i + stride // 2, stride)
            part = mx.array(matrix[:, i * used : (i + 1) * used], dtype=mx.float32)
            down.weight[: len(matrix), tap, place * inputs : place * inputs + used] = part
            rows = slice(place * outputs, place * outputs + used)
            up.weight[rows, 1 - tap, : len(matrix)] = part.T
        used *= stride
    gathered = run(codec.encoder.block[:-1], audio[..., None]).reshape(-1, last.weight.shape[2])
    _, vectors = np.linalg.eigh(np.cov(np.array(gathered).T))
    basis = mx.array(vectors.T[: -len(last.weight) - 1 : -1].copy(), dtype=mx.float32)
    last.weight[:, 1] = basis
    codec.decoder.model[0].weight[:, 3] = basis.T
    kept = mx.eye(codec.quantizer.in_proj.weight.shape[0], len(last.weight))
    rms = mx.sqrt(mx.square(gathered @ basis.T @ kept.T).mean())
    codec.quantizer.in_proj.weight, codec.quantizer.in_proj.bias = kept / rms, mx.zeros(len(kept))
    codec.quantizer.out_proj.weight = kept.T * rms
    codec.quantizer.out_proj.bias = mx.zeros(len(last.weight))


def spectrum(x: mx.array, size: int) -> mx.array:
    """Short-time Fourier transform of (B, T), hop size / 4, scaled to RMS about that of x."""
    hop = size // 4
    x = mx.pad(x, ((0, 0), (hop, -x.shape[1] % hop + hop)))
    blocks = x.reshape(len(x), -1, hop)
    count = blocks.shape[1] - 3
    frames = mx.concatenate([blocks[:, i : i + count] for i in range(4)], axis=-1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size, dtype=np.float32) / size)
    return mx.fft.rfft(frames * mx.array(window)) / size**0.5


def codec_loss(network: Network, a: mx.array, b: mx.array, noise: mx.array) -> mx.array:
    """Loss of each pair (P,): spectra and SNR of a, b, a + b, z additive and of RMS about 1."""
    codec, pairs = network.audio_codec, len(a)
    waves = mx.concatenate([a, b, a + b])
    z = codec.encode(waves)
    power = mx.square(z).mean()
    # noise in place of a variational bottleneck; relative to z, or the encoder would outgrow it
    decoded = codec.decode(z + mx.sqrt(power) * noise.reshape(z.shape))
    loss = 0.0
    for size in (2048, 512, 128):
        x, y = spectrum(waves, size), spectrum(decoded, size)
        both = [mx.sqrt(mx.square(s.real) + mx.square(s.imag) + 1e-10) for s in (x, y)]
        error = mx.abs((x - y).real) + mx.abs((x - y).imag) + mx.abs(both[0] - both[1])
        error = error + 0.01 * mx.abs(mx.log(both[0] + 1e-4) - mx.log(both[1] + 1e-4))
        loss = loss + 10 * error.mean((1, 2))
    noise_power = mx.square(waves - decoded).mean(1) + 1e-8
    loss = loss + 0.5 * mx.log10(noise_power / (mx.square(waves).mean(1) + 1e-8))
    za, zb, zsum = mx.split(z, 3)
    extra = mx.square(zsum - za - zb).mean((1, 2)) / power
    return loss.reshape(3, pairs).mean(0) + 0.1 * extra + 0.0125 * mx.square(mx.log(power))


def codec_batches(rng: np.random.Generator, size: int, first: int) -> Callable[[float], Batch]:
    """A function of the progress that gives codec_loss its next pairs of 0.77 s."""
    numbers = iter(range(first, 2**62))

    def draw(_: float) -> Batch:
        sources = [
            sounds.mixture(sounds.training_rng(next(numbers)), 0.768, count=2).sources
            for _ in range(max(4, size // 6 * 2))
        ]
        a, b = np.stack(sources, axis=1)
        shape = (len(a), 3, a.shape[1] // CODEC.hop_length, CODEC.codebook_dim)
        noise = rng.standard_normal(shape, np.float32) * rng.uniform(0, 0.15, (len(a), 3, 1, 1))
        return mx.array(a), mx.array(b), mx.array(noise.astype(np.float32))

    return draw


class Pool:
    """Encoded mixtures, new ones of which come in as old ones are used up.

    A row is one target in one mixture: latents (3, N, C) of mixture, target and rest, float16;
    frames where target and others sound (2, N); the target's family; the families present;
    whether times alone tell the target.
    """

    def __init__(self, encode: Callable, seconds: float, first: int, full: int):
        self._encode, self._seconds, self._next, self._full = encode, seconds, first, full
        self._rows: list[tuple] = []
        self._credit = 0  # rows that may be drawn before new ones are due

    def _add(self, mixture: sounds.Mixture) -> None:
        """The mixture's rows; all latents are true encodings, none a sum of others."""
        sources, count = mixture.sources, len(mixture.names)
        waves = [sources.sum(0), *sources]
        if count > 2:
            waves += [sources.sum(0) - source for source in sources]
        z = self._encode(np.stack(waves)).astype(np.float16)
        active = np.stack([sounds.activity(source) for source in sources])
        families = [NAMES.index(name) for name in mixture.names]
        for k, family in enumerate(families):
            rest = z[1 + count + k] if count > 2 else z[2 - k]
            others = np.delete(active, k, 0)
            where = np.stack([active[k], others.any(0)])
            clear = telling(active[k], others, 0.8, 0.7)
            self._rows.append((np.stack([z[0], z[1 + k], rest]), where, family, families, clear))
        self._credit += REUSE * count

    def draw(self, rng: np.random.Generator, batch: int) -> list[tuple]:
        """Rows at random; each is drawn about REUSE times in all."""
        while self._credit < batch or len(self._rows) < 10 * batch:
            self._add(sounds.mixture(sounds.training_rng(self._next), self._seconds))
            self._next += 1
        self._rows = self._rows[-self._full :]
        self._credit -= batch
        return [self._rows[i] for i in rng.integers(len(self._rows), size=batch)]


def telling(target: np.ndarray, others: np.ndarray, most: float, overlap: float) -> bool:
    """Whether the frames (N,) of a target tell it from the others (K, N)."""
    shared = (target & others).sum(1) / np.maximum((target | others).sum(1), 1)
    return bool(target.mean() < most and shared.max() < overlap)


class Prompts:
    """Turns rows of a pool into inputs of flow_loss: draws prompts, times and noise."""

    def __init__(self, tokenizer: Tokenizer, silence: np.ndarray):
        tokens, mask = tokenizer([phrase for _, phrase in PHRASES] + [""])  # the last: none
        self._tokens, self._mask, self._silence = np.array(tokens), np.array(mask), silence
        family = np.array([i for i, _ in PHRASES])
        self._phrases = [np.flatnonzero(family == i) for i in range(len(NAMES))]

    def batch(self, rng: np.random.Generator, rows: list[tuple]) -> Batch:
        size, frames = len(rows), rows[0][0].shape[1]
        latents = np.stack([row[0] for row in rows]).astype(np.float32)
        anchors = np.zeros((size, frames), np.int32)
        texts = np.full(size, len(PHRASES))
        for i, (_, (target, others), family, present, clear) in enumerate(rows):
            kind = rng.random()
            if kind < 0.06:  # a sound that is absent
                family = rng.choice(np.setdiff1d(np.arange(len(NAMES)), present))
                latents[i, 1:] = self._silence[:frames], latents[i, 0]
            elif kind < 0.40:  # spans, with half of them spans alone
                anchors[i] = target
                if rng.random() < 0.5:
                    anchors[i, others & ~target] = 2
            if not (clear and 0.06 <= kind < 0.23):
                texts[i] = rng.choice(self._phrases[family])
        u = (np.arange(size) + rng.random(size)) / size  # rows are in the order of t, or nearly
        # separation is decided at small t: density 2 (1 - t), with some of every t
        t = np.where(rng.random(size) < 0.85, 1 - np.sqrt(1 - u), u).astype(np.float32)
        x1 = np.concatenate([latents[:, 1], latents[:, 2]], axis=-1)
        noise = rng.standard_normal(x1.shape, np.float32)
        batch = latents[:, 0], x1, anchors, self._tokens[texts], self._mask[texts], t, noise
        return tuple(map(mx.array, batch))


def flow_loss(network: Network, latents, x1, anchors, tokens, mask, t, noise) -> mx.array:
    """Mean squared error of the velocity in each example, (B,)."""
    text = network.text_encoder(tokens, mask)
    condition = network.condition(latents, text, mask, anchors)
    s = t[:, None, None]
    v = network.velocity((1 - s) * noise + s * x1, t, condition)
    return mx.square(v - (x1 - noise)).mean((1, 2))


def flow_batches(rng, size: int, network: Network, tokenizer: Tokenizer, first: int) -> Callable:
    """A function of the progress that gives flow_loss its next examples."""
    encoder = mx.compile(network.audio_codec.encode)

    def encode(waves: np.ndarray) -> np.ndarray:
        return np.array(encoder(mx.array(waves)))

    prompts = Prompts(tokenizer, encode(np.zeros((1, 4 * sounds.SAMPLE_RATE), np.float32))[0])
    short, long = Pool(encode, 2.0, first, 12_000), Pool(encode, 4.0, first + 2**40, 3_000)

    def draw(progress: float) -> Batch:
        if progress > 0.6 and rng.random() < 0.2:
            return prompts.batch(rng, long.draw(rng, size // 2))
        return prompts.batch(rng, short.draw(rng, size))

    return draw


class Trainer:
    """The network's trainable weights, their running average, and the optimizers' state."""

    def __init__(self, network: Network, loss: Callable, *optimizers: optim.Optimizer):
        """The first of two optimizers takes the matrices of the transformer's blocks."""
        self.network, self._optimizers = network, optimizers
        self._peaks = [o.learning_rate.item() for o in optimizers]
        both = optim.MultiOptimizer(list(optimizers), [is_matrix] * (len(optimizers) - 1))
        both.init(network.trainable_parameters())
        self.average = tree_map(lambda p: p + 0, network.trainable_parameters())
        self.steps, self.seconds = 0, 0.0
        self._state = [network.state, self.average, *(o.state for o in optimizers)]
        mx.eval(self._state)
        # MLX's CPU backend runs each stream on a core of its own: give each a part of the batch
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        streams = [mx.new_stream(mx.cpu) for _ in range(2)] if on_cpu else [mx.gpu]

        def mean_loss(*batch: mx.array) -> tuple[mx.array, mx.array]:
            rows = loss(network, *batch)
            return rows.mean(), rows

        def step(keep: mx.array, *batch: mx.array) -> mx.array:
            rows, grads = [], []
            for i, stream in enumerate(streams):
                with mx.stream(stream):
                    part = [x[i :: len(streams)] for x in batch]
                    (_, losses), grad = nn.value_and_grad(network, mean_loss)(*part)
                rows.append(losses)
                grads.append(grad)
            grad = tree_map(lambda *g: sum(g) / len(g), *grads)
            both.update(network, optim.clip_grad_norm(grad, 1.0)[0])
            new = network.trainable_parameters()
            new = tree_map(lambda a, p: keep * a + (1 - keep) * p, self.average, new)
            self.average.update(new)
            return mx.stack(rows, axis=1).flatten()

        self._step = mx.compile(step, inputs=self._state, outputs=self._state)

    def step(self, progress: float, batch: Batch) -> np.ndarray:
        """One update; the rate warms up, then falls with the progress. Losses of the examples."""
        factor = min(1, (self.steps + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            optimizer.learning_rate = peak * factor
        keep = mx.array(min(0.999, (1 + self.steps) / (10 + self.steps)))
        rows = self._step(keep, *batch)
        mx.eval(rows, self._state)
        self.steps += 1
        return np.array(rows)

    def finished(self) -> list[tuple[str, mx.array]]:
        """All the network's parameters, those that are trained averaged."""
        flat = dict(tree_flatten(self.network.parameters())) | dict(tree_flatten(self.average))
        return list(flat.items())

    def save(self, path: Path) -> None:
        tree = {"network": self.network.trainable_parameters(), "average": self.average}
        tree["optimizers"] = [o.state for o in self._optimizers]
        notes = {"steps": str(self.steps), "seconds": str(self.seconds)}
        partial = path.with_name("partial-" + path.name)
        mx.save_safetensors(str(partial), dict(tree_flatten(tree)), notes)
        os.replace(partial, path)

    def restore(self, path: Path) -> None:
        tensors, notes = mx.load(str(path), return_metadata=True)
        tree = tree_unflatten(list(tensors.items()))
        self.network.update(tree["network"])
        self.average.update(tree["average"])
        for optimizer, state in zip(self._optimizers, tree["optimizers"], strict=True):
            optimizer.state.update(state)
        self.steps, self.seconds = int(notes["steps"]), float(notes["seconds"])
        mx.eval(self._state)


def is_matrix(name: str, value: mx.array) -> bool:
    return "layers." in name and value.ndim == 2 and "table" not in name


def fit(trainer: Trainer, path: Path, batches: Callable, plan: tuple, check: Callable) -> None:
    """Train for plan = (steps, minutes), minutes first if given; go on from `path` if it exists.

    `batches(first)` gives a function of the progress that draws from mixture `first` on. Every
    minute the state is saved and a line is logged, every ten minutes with what `check()` finds.
    """
    if path.exists():
        trainer.restore(path)
    draw = batches(1000 * trainer.steps)  # mixtures never seen before
    steps, minutes = plan
    lines, count, losses, saved = 0, 0, [], time.perf_counter()
    while True:
        progress = trainer.seconds / (60 * minutes) if minutes else trainer.steps / steps
        if progress < 1:
            begun = time.perf_counter()
            rows = trainer.step(progress, draw(progress))
            trainer.seconds += time.perf_counter() - begun
            count += len(rows)
            losses.append([part.mean() for part in np.array_split(rows, 4)])
        elapsed = time.perf_counter() - saved
        if elapsed < 60 and progress < 1:
            continue
        trainer.save(path)
        lines += 1
        line = {"stage": path.stem, "step": trainer.steps, "minutes": trainer.seconds / 60}
        if losses:  # of the quarters of each batch; small t come first
            by_t = np.mean(losses, axis=0)
            line |= {"loss": by_t.mean(), "by_t": by_t.tolist(), "per_second": count / elapsed}
        if progress >= 1 or lines % 10 == 0:
            line |= check()
        text = json.dumps(line, default=float)
        with path.with_name("log.jsonl").open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)
        if progress >= 1:
            return
        count, losses, saved = 0, [], time.perf_counter()


def score(model: SAMAudio, seed: int, count: int) -> dict[str, float]:
    """Mean SI-SDR improvement in dB on held-out mixtures, with 8 evaluations."""
    rng, gains = sounds.heldout_rng(seed), {"text": [], "text_and_spans": []}
    for i in range(count):
        mixture = sounds.mixture(rng)
        wave, target = mixture.mixture, mixture.sources[0]
        text = sounds.FAMILIES[mixture.names[0]].phrases[i % 5]
        times = [Span("+", start, end) for start, end in sounds.spans(target)]
        for kind, spans in zip(gains, ((), times), strict=True):
            result = model.separate(wave, text, spans=spans, steps=4, watermark=False, seed=i)
            gain = si_sdr(np.array(result.target), target) - si_sdr(wave, target)
            gains[kind].append(gain)
    return {name: float(np.mean(values)) for name, values in gains.items()}


def vocabulary() -> shapes.VocabularyConfig:
    families = sounds.FAMILIES.values()
    phrases = [phrase for family in families for phrase in family.phrases + family.heldout]
    words = {"some", "sounds", *(word for phrase in phrases for word in phrase.split())}
    return shapes.VocabularyConfig(NAMES, tuple(sorted(words)))


def export(config: shapes.ModelConfig, weights: list, pieces: Path, folder: Path) -> None:
    """Write a model folder in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, vocabulary=vocabulary(), dtype="float16")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    half = {name: value.astype(mx.float16) for name, value in weights}
    mx.save_safetensors(str(folder / "model.safetensors"), half)
    shutil.copyfile(pieces, folder / "spiece.model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--init", type=Path, help="model folder to start from")
    parser.add_argument("--codec-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=5000, help="of the transformer")
    parser.add_argument("--minutes", type=float, help="end the transformer by the clock instead")
    parser.add_argument("--batch", type=int, default=24, help="a multiple of 4, at least 8")
    parser.add_argument("--lr", type=float, default=2e-3, help="AdamW's peak; Muon's is thrice it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", action="store_true", help="only write RUN/model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    mx.random.seed(args.seed)
    rng = np.random.default_rng([args.seed, time.time_ns()])  # another one when a run goes on
    pieces = args.out / "spiece.model"
    if args.init:
        config, network, tokenizer = load.load(args.init)
        shutil.copyfile(args.init / "spiece.model", pieces)
        network.set_dtype(mx.float32)
    else:
        config, network, tokenizer = fresh(pieces)

    network.freeze()
    if args.codec_steps:
        network.audio_codec.unfreeze()
        adam = optim.AdamW(1e-3, betas=[0.9, 0.99], weight_decay=1e-4, bias_correction=True)
        trainer = Trainer(network, codec_loss, adam)
        batches = partial(codec_batches, rng, args.batch)
        plan = (args.codec_steps, None)
        fit(trainer, args.out / "codec.safetensors", batches, plan, check=dict)
        network.load_weights(trainer.finished())
        network.freeze()

    for name in TRAINED:
        network[name].unfreeze()
    adam = optim.AdamW(args.lr, betas=[0.9, 0.98], weight_decay=0.01, bias_correction=True)
    # its weight decay would enter the gradient, which is then normalised: none
    trainer = Trainer(network, flow_loss, optim.Muon(3 * args.lr, weight_decay=0), adam)
    path = args.out / "transformer.safetensors"

    def check() -> dict[str, float]:
        model = SAMAudio(config, Network(config), tokenizer)
        model.network.load_weights(trainer.finished())
        return score(model, seed=1, count=12)

    if args.export:
        trainer.restore(path)
    else:
        batches = partial(flow_batches, rng, args.batch, network, tokenizer)
        fit(trainer, path, batches, (args.steps, args.minutes), check)
    export(config, trainer.finished(), pieces, args.out / "model")


if __name__ == "__main__":
    main()
