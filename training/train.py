"""Train the tiny SAM-Audio of the demo on synthetic sounds: the codec, then everything else.

    python -m training.train --out RUN [--init MODEL]
    mlx.launch -n 2 -- python -m training.train ...   # each process takes its share of a batch

RUN keeps the state of both stages, a log and the newest model folder, RUN/model. The same command
goes on from there, and ends where a run without a break would have ended: every batch follows from
the number of its step, and of processes, alone.

B batch, N latent frames, L text tokens, C latent channels.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from mlx_sam_audio import SAMAudio, Span
from mlx_sam_audio.demo import sounds
from mlx_sam_audio.loading import load, manifest
from mlx_sam_audio.loading.store import resolve
from mlx_sam_audio.loading.tokenizers import END, PAD, SentencePieceTokenizer
from mlx_sam_audio.models import cpu
from mlx_sam_audio.models.dit import TransformerConfig
from mlx_sam_audio.models.sam_audio import ModelConfig, Network, VocabularyConfig
from mlx_sam_audio.models.t5 import TextConfig
from mlx_sam_audio.prompts import SIGNS
from mlx_sam_audio.ranking.metrics import si_sdr

from . import codec

FAMILIES = tuple(sounds.FAMILIES.values())
PHRASES = [(i, phrase) for i, family in enumerate(FAMILIES) for phrase in family.phrases]
ROUND = 100  # steps from one save to the next, and on the same mixtures
REUSE = 20  # draws from an encoded mixture, 8 of each target; encoding costs half an example
STOP_WORDS = {"a", "an", "the", "of", "some", "sound", "sounds"}
SPANS_ALONE = 0.3  # of the examples: their times must tell the sound from the others
# seconds of the clips of a batch, in turn, once 2 s alone have taught the model to separate
LENGTHS = (2, 2, 2, 2, 4, 2, 2, 2, 2, 10)
NEWER = ("voice", "piano", "guitar", "rain", "applause", "dog", "footsteps")
DRAWN = dict(drum=1.5, hiss=1.3) | dict.fromkeys(NEWER, 2.0)  # more often than the others


def fresh(pieces: Path) -> tuple[ModelConfig, Network, SentencePieceTokenizer]:
    """An untrained model, and its tokenizer made of the descriptions."""
    if not pieces.exists():
        settings = dict(vocab_size=120, hard_vocab_limit=False, character_coverage=1.0)
        settings |= dict(pad_id=PAD, eos_id=END, unk_id=2, bos_id=-1, minloglevel=2)
        lines = iter([phrase for _, phrase in PHRASES])
        model = io.BytesIO()
        SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **settings)
        part = pieces.with_name(f"part-{mx.distributed.init().rank()}-{pieces.name}")
        part.write_bytes(model.getvalue())
        part.replace(pieces)  # another process may read it already
    size = SentencePieceProcessor(model_file=str(pieces)).vocab_size()
    sizes = dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, num_buckets=32)
    text = TextConfig(size, **sizes, max_distance=128, eps=1e-6, max_tokens=512)
    sizes = dict(dim=192, n_heads=4, n_layers=4, ffn_dim=512, context_dim=192, frequency_dim=64)
    transformer = TransformerConfig(
        **sizes, norm_eps=1e-5, max_positions=10_000, out_channels=2 * codec.CONFIG.codebook_dim
    )
    config = ModelConfig(
        codec.CONFIG, text, transformer, None, False, None, 3, 32, "float32", None, ()
    )
    mx.random.seed(0)
    network = Network(config)
    clips = [sounds.mixture(sounds.training_rng(i)).mixture for i in range(48)]
    codec.klt_start(network.audio_codec, mx.array(np.stack(clips)))
    for layer in network.transformer.layers:
        layer.scale_shift_table[2::3] += 0.5  # open the gates a little
    network.embed_anchors.gate += 0.5
    network.transformer.output.weight *= 0.5
    return config, network, SentencePieceTokenizer(pieces, text)


def grown(name: str, pieces: Path) -> tuple[ModelConfig, Network, SentencePieceTokenizer]:
    """A model for all descriptions, with the weights of one that knows some of them."""
    folder = resolve(name)
    _, old, _ = load.load(folder)
    config, network, tokenizer = fresh(pieces)
    weights = {k: v.astype(mx.float32) for k, v in tree_flatten(old.parameters())}
    words = [SentencePieceProcessor(model_file=str(x)) for x in (folder / "spiece.model", pieces)]
    known = {words[0].id_to_piece(i): i for i in range(len(words[0]))}
    rows = np.array(network.text_encoder.shared.weight)
    for i in range(len(words[1])):
        if (piece := words[1].id_to_piece(i)) in known:
            rows[i] = weights["text_encoder.shared.weight"][known[piece]]
    weights["text_encoder.shared.weight"] = mx.array(rows)
    network.load_weights(list(weights.items()))
    return config, network, tokenizer


class Target(NamedTuple):
    """One sound of a mixture, encoded."""

    latents: np.ndarray  # (3, N, C) float16: of the mixture, the sound, and all the rest
    active: np.ndarray  # (2, N): where the sound and where any other sound is heard
    family: int
    present: list[int]  # the families in the mixture
    told_by_times: bool  # whether `active` alone tells which sound is meant


def targets(encode: Callable, mixture: sounds.Mixture) -> list[Target]:
    """Every sound of a mixture in turn. All latents are encodings of audio, none a sum."""
    sources, whole = mixture.sources, mixture.mixture
    count = len(sources)
    waves = [whole[None], sources, *([whole - sources] if count > 2 else [])]
    z = encode(np.concatenate(waves)).astype(np.float16)
    z = z if count > 2 else z[[0, 1, 2, 2, 1]]  # of two sounds, each is the other's rest
    active = np.stack([sounds.activity(source) for source in sources])
    present = [list(sounds.FAMILIES).index(name) for name in mixture.names]
    found = []
    for k, family in enumerate(present):
        latents, others = z[[0, 1 + k, 1 + count + k]], np.delete(active, k, 0)
        shared = (active[k] & others).sum(1) / np.maximum((active[k] | others).sum(1), 1)
        told = active[k].mean() < 0.8 and shared.max() < 0.7
        where = np.stack([active[k], others.any(0)])
        found.append(Target(latents, where, family, present, bool(told)))
    return found


class Prompts:
    """Draws targets, and a prompt, a time and noise for each."""

    def __init__(self, tokenizer: SentencePieceTokenizer, silence: np.ndarray):
        """silence (N, C): the latents of silence, as long as any target's."""
        tokens, mask = tokenizer([phrase for _, phrase in PHRASES] + [""])  # the last: spans alone
        self._tokens, self._mask, self._silence = np.array(tokens), np.array(mask), silence
        family = np.array([i for i, _ in PHRASES])
        self._phrases = [np.flatnonzero(family == i) for i in range(len(FAMILIES))]
        self._weights = np.array([DRAWN.get(name, 1.0) for name in sounds.FAMILIES])

    def batch(self, rng: np.random.Generator, pool: list[Target], size: int) -> tuple:
        """What flow_loss takes after the network, drawn from targets of one length."""
        frames = pool[0].active.shape[1]
        weights = self._weights[[target.family for target in pool]]
        told = weights * [target.told_by_times for target in pool]
        alone = rng.random(size) < SPANS_ALONE * bool(told.any())
        shares = [told / told.sum() if a else weights / weights.sum() for a in alone]
        chosen = [pool[rng.choice(len(pool), p=share)] for share in shares]
        latents = np.stack([target.latents for target in chosen]).astype(np.float32)
        anchors = np.zeros((size, frames), np.int32)
        texts = np.full(size, len(PHRASES))
        for i, target in enumerate(chosen):
            kind, family = rng.random(), target.family
            if alone[i] or kind < 0.24:  # spans, some of the time with those of the other sounds
                here, others = target.active
                anchors[i, here] = SIGNS["+"]
                if rng.random() < 0.2:
                    anchors[i, others & ~here] = SIGNS["-"]
            elif kind < 0.36:  # a sound that is absent: silence, and all is left
                family = rng.choice(np.setdiff1d(np.arange(len(FAMILIES)), target.present))
                latents[i, 1:] = self._silence[:frames], latents[i, 0]
            if not alone[i]:
                texts[i] = rng.choice(self._phrases[family])
        u = (np.arange(size) + rng.random(size)) / size  # spread over the batch
        # separation is decided at small t: density 2 (1 - t), and some of every t
        t = np.where(rng.random(size) < 0.85, 1 - np.sqrt(1 - u), u).astype(np.float32)
        x1 = np.concatenate([latents[:, 1], latents[:, 2]], axis=-1)
        noise = rng.standard_normal(x1.shape, np.float32)
        batch = latents[:, 0], x1, anchors, self._tokens[texts], self._mask[texts], t, noise
        return tuple(map(mx.array, batch))


def flow_batches(
    network: Network,
    tokenizer: SentencePieceTokenizer,
    size: int,
    long_after: float,
    first: int,
    last: int,
) -> Iterator[tuple]:
    """What flow_loss takes, for the steps first..last - 1; the same ones every time.

    size: clips of 2 s in a batch of this process, fewer if longer; long_after: the step from which
    some are.
    """
    rank = mx.distributed.init().rank()

    def encode(waves: np.ndarray) -> np.ndarray:
        return np.array(network.audio_codec.encode(mx.array(waves)))

    def pool(number: int, seconds: int, share: float) -> list[Target]:
        count = math.ceil(ROUND * share * (2 * size / seconds) / REUSE)
        start = 1_000_000 * number + 100_000 * seconds + 10_000 * rank  # no mixture comes twice
        streams = map(sounds.training_rng, range(start, start + count))
        return [x for rng in streams for x in targets(encode, sounds.mixture(rng, seconds))]

    silence = encode(np.zeros((1, max(LENGTHS) * sounds.SAMPLE_RATE), np.float32))[0]
    prompts = Prompts(tokenizer, silence)
    for step in range(first, last):
        number, place = divmod(step, ROUND)
        lengths = LENGTHS if number * ROUND >= long_after else LENGTHS[:1]
        if step == first or place == 0:
            pools = {s: pool(number, s, lengths.count(s) / len(lengths)) for s in set(lengths)}
        rng, seconds = np.random.default_rng([3, step, rank]), lengths[step % len(lengths)]
        yield prompts.batch(rng, pools[seconds], max(1, 2 * size // seconds))


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """The stand-in for exp on a CPU sets bits and has no gradient: within, it has one."""
    exp = cpu.exp
    cpu.exp = mx.custom_function(exp)
    cpu.exp.vjp(lambda x, cotangent, y: cotangent * y)
    try:
        yield
    finally:
        cpu.exp = exp


@differentiable()
def flow_loss(network: Network, latents, x1, anchors, tokens, mask, t, noise) -> mx.array:
    """Mean squared error of the velocity on the way from noise to x1, both (B, N, 2C).

    latents (B, N, C) of the mixture, anchors (B, N), tokens and mask (B, L), times t (B,).
    """
    text = network.text_encoder(tokens, mask)
    condition = network.condition(latents, text, mask, anchors)
    s = t[:, None, None]
    moment = network.moment(t, condition.text)
    v = network.velocity((1 - s) * noise + s * x1, moment, condition)
    return mx.square(v - (x1 - noise)).mean()


class Trainer:
    """The unfrozen weights of a network, their running average, and the optimizer's state."""

    def __init__(self, network: Network, loss: Callable, optimizer: optim.Optimizer, path: Path):
        """Goes on from the state in `path` if there is one. loss(network, *batch) -> scalar."""
        self.network, self.path, self.steps = network, path, 0
        self.average = tree_map(lambda p: p + 0, network.trainable_parameters())
        self._optimizer = optimizer
        if path.exists():
            tensors, notes = mx.load(str(path), return_metadata=True)
            saved = tree_unflatten(list(tensors.items()))
            self.steps, self.average = int(notes["steps"]), saved["average"]
            network.update(saved["network"])
            optimizer.state = saved["optimizer"]
        optimizer.init(network.trainable_parameters())
        self._state = [network.state, self.average, optimizer.state]
        mx.eval(self._state)
        gradient = nn.value_and_grad(network, partial(loss, network))

        def step(keep: mx.array, *batch: mx.array) -> mx.array:
            value, gradients = gradient(*batch)
            gradients = nn.average_gradients(gradients)
            optimizer.update(network, optim.clip_grad_norm(gradients, 1.0)[0])
            new = network.trainable_parameters()
            self.average.update(tree_map(lambda a, p: a + (1 - keep) * (p - a), self.average, new))
            return value

        self._step = mx.compile(step, inputs=self._state, outputs=self._state)

    def step(self, batch: tuple[mx.array, ...]) -> float:
        """One update; returns the loss."""
        keep = min(0.999, (1 + self.steps) / (10 + self.steps))
        loss = self._step(mx.array(keep), *batch)
        mx.eval(loss, self._state)
        self.steps += 1
        return loss.item()

    def save(self) -> None:
        """Write the state; a break in the middle leaves the old one whole."""
        weights = self.network.trainable_parameters()
        state = dict(network=weights, average=self.average, optimizer=self._optimizer.state)
        part = self.path.with_name("part-" + self.path.name)
        mx.save_safetensors(str(part), dict(tree_flatten(state)), {"steps": str(self.steps)})
        part.replace(self.path)


def schedule(peak: float, steps: int) -> Callable[[mx.array], mx.array]:
    """The learning rate of a step: a short rise, then half a cosine down to 0."""

    def rate(step: mx.array) -> mx.array:
        fall = 0.5 + 0.5 * mx.cos(math.pi / steps * step.astype(mx.float32))
        return peak * fall * mx.minimum(1.0, (step + 1) / 100)

    return rate


def transformer_optimizer(peak: float, steps: int) -> optim.Optimizer:
    """Muon for the matrices of the transformer's blocks, AdamW for the rest."""
    # Muon's updates of width 192 have an RMS of rate / sqrt(192), AdamW's of about rate / 5: thrice
    # the rate makes them alike. Its weight decay would enter the gradient, then normalised: none.
    muon = optim.Muon(schedule(3 * peak, steps), weight_decay=0)
    rate = schedule(peak, steps)
    adam = optim.AdamW(rate, betas=[0.9, 0.98], weight_decay=0.01, bias_correction=True)

    def is_matrix(name: str, value: mx.array) -> bool:
        return ".layers." in name and value.ndim == 2 and "table" not in name

    return optim.MultiOptimizer([muon, adam], [is_matrix])


def fit(trainer: Trainer, batches: Callable, steps: int, check: Callable[[], dict] = dict) -> None:
    """Train up to so many steps; batches(first, last) yields those of the steps between.

    After each round the first process saves the state and logs a line, with what check() finds
    after every tenth round and the last one.
    """
    leads = mx.distributed.init().rank() == 0
    while trainer.steps < steps:
        first, begun = trainer.steps, time.perf_counter()
        last = min((first // ROUND + 1) * ROUND, steps)
        loss = np.mean([trainer.step(batch) for batch in batches(first, last)])
        seconds = (time.perf_counter() - begun) / (last - first)
        if not leads:
            continue
        line = dict(stage=trainer.path.stem, step=last, loss=loss, seconds_per_step=seconds)
        if last % (10 * ROUND) == 0 or last == steps:
            line |= check()
        trainer.save()
        text = json.dumps(line, default=float)
        with trainer.path.with_name("log.jsonl").open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)


def score(model: SAMAudio, count: int = 12) -> dict[str, float]:
    """Mean SI-SDR improvement in dB on held-out mixtures, with 8 evaluations."""
    rng, gains = sounds.heldout_rng(1), {"text": [], "text_and_spans": []}
    for i in range(count):
        mixture = sounds.mixture(rng)
        wave, target = mixture.mixture, mixture.sources[0]
        phrases = sounds.FAMILIES[mixture.names[0]].phrases
        times = [Span("+", start, end) for start, end in sounds.spans(target)]
        for kind, spans in zip(gains, ((), times), strict=True):
            found = model.separate(wave, phrases[i % len(phrases)], spans=spans, steps=8, seed=i)
            gains[kind].append(si_sdr(np.array(found.target), target) - si_sdr(wave, target))
    return {name: float(np.mean(values)) for name, values in gains.items()}


def vocabulary() -> VocabularyConfig:
    """The sounds by name, and every word of their descriptions."""
    phrases = [phrase for family in FAMILIES for phrase in family.phrases + family.heldout]
    words = STOP_WORDS.union(re.findall(r"\w+", " ".join(phrases).lower()))
    return VocabularyConfig(tuple(f.phrases[0] for f in FAMILIES), tuple(sorted(words)))


def export(config: ModelConfig, weights: dict, pieces: Path, folder: Path) -> None:
    """Write a model folder in float16."""
    folder.mkdir(exist_ok=True)
    half = {name: value.astype(mx.float16) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), half)
    config = dataclasses.replace(config, vocabulary=vocabulary(), dtype="float16")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    shutil.copyfile(pieces, folder / "spiece.model")
    manifest.write(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--init", help="go on from what this model knows")
    parser.add_argument("--codec-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=5000, help="of everything but the codec")
    parser.add_argument("--batch", type=int, default=24, help="clips of 2 s in a step, at least 4")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest rate after the codec")
    args = parser.parse_args()

    ranks = mx.distributed.init().size()
    args.out.mkdir(parents=True, exist_ok=True)
    pieces = args.out / "spiece.model"
    if args.init:
        config, network, tokenizer = grown(args.init, pieces)
    else:
        config, network, tokenizer = fresh(pieces)
        network.freeze()
        network.audio_codec.unfreeze()
        rate = schedule(1e-3, args.codec_steps)
        adam = optim.AdamW(rate, betas=[0.9, 0.99], weight_decay=1e-4, bias_correction=True)
        trainer = Trainer(network, codec.loss, adam, args.out / "codec.safetensors")
        batches = partial(codec.batches, args.batch // 3 // ranks)  # a pair makes three clips
        fit(trainer, batches, args.codec_steps)
        network.update(trainer.average)

    network.unfreeze()
    network.audio_codec.freeze()
    optimizer = transformer_optimizer(args.lr, args.steps)
    trainer = Trainer(network, flow_loss, optimizer, args.out / "transformer.safetensors")

    def check() -> dict[str, float]:
        weights = dict(tree_flatten(network.parameters())) | dict(tree_flatten(trainer.average))
        export(config, weights, pieces, args.out / "model")
        model = SAMAudio.from_pretrained(args.out / "model")
        model.network.set_dtype(mx.float32)  # the rounded weights: float16 itself crawls on CPUs
        return score(model)

    long_after = 0 if args.init else 0.6 * args.steps
    batches = partial(flow_batches, network, tokenizer, args.batch // ranks, long_after)
    fit(trainer, batches, args.steps, check)


if __name__ == "__main__":
    main()
