"""Train the tiny SAM-Audio of the demo on synthetic sounds: the codec, then everything else.

    python -m training.train --out RUN [--init CHECKPOINT] [--device cuda]
    python -m convert --hf-path RUN/checkpoint --mlx-path MODEL --dtype float16
    python -m training.vocabulary MODEL

RUN keeps the state of both stages, a log, and the averaged weights as a checkpoint of the
reference, whose modules are trained (see `training/network.py`). The same command goes on from
there, and ends where a run without a break would have ended: every batch follows from the number
of its step alone. Other --steps bend the learning rate's fall from there on. B batch, N latent
frames, L text tokens, C latent channels.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from mlx_sam_audio.demo import sounds
from mlx_sam_audio.prompts import SIGNS

from . import codec
from .network import CONFIG, END, PAD, Network, load, save, words

FAMILIES = tuple(sounds.FAMILIES.values())
PHRASES = [(i, phrase) for i, family in enumerate(FAMILIES) for phrase in family.phrases]
ROUND = 100  # steps from one save to the next, and on the same mixtures
REUSE = 20  # draws from an encoded mixture, 8 of each target; encoding costs half an example
SPANS_ALONE = 0.3  # of the examples: their times must tell the sound from the others
# seconds of the clips of a batch, in turn, once 2 s alone have taught the model to separate
LENGTHS = (2, 2, 2, 2, 4, 2, 2, 2, 2, 10)
NEWER = ("voice", "piano", "guitar", "rain", "applause", "dog", "footsteps")
DRAWN = dict(drum=2.0, hiss=1.3) | dict.fromkeys(NEWER, 1.7)  # more often than the others


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

    def __init__(self, tokenizer: SentencePieceProcessor, silence: np.ndarray):
        """silence (N, C): the latents of silence, as long as any target's."""
        texts = [phrase for _, phrase in PHRASES] + [""]  # the last: spans alone
        rows = [ids + [END] for ids in tokenizer.encode(texts)]
        longest = max(map(len, rows))
        self._tokens = np.array([row + [PAD] * (longest - len(row)) for row in rows])
        self._mask = np.arange(longest) < np.array([len(row) for row in rows])[:, None]
        self._silence, family = silence, np.array([i for i, _ in PHRASES])
        self._phrases = [np.flatnonzero(family == i) for i in range(len(FAMILIES))]
        self._weights = np.array([DRAWN.get(name, 1.0) for name in sounds.FAMILIES])

    def batch(self, rng: np.random.Generator, pool: list[Target], size: int) -> tuple:
        """What flow_loss takes after the network, drawn from targets of one length."""
        frames = pool[0].active.shape[1]
        weights = self._weights[[target.family for target in pool]]
        told = weights * [target.told_by_times for target in pool]
        alone = rng.random(size) < SPANS_ALONE * bool(told.any())
        drawn = [
            rng.choice(len(pool), p=w / w.sum()) for w in (told if a else weights for a in alone)
        ]
        chosen = [pool[i] for i in drawn]
        latents = np.stack([target.latents for target in chosen]).astype(np.float32)
        anchors = np.zeros((size, frames), np.int64)
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
        return latents[:, 0], x1, anchors, self._tokens[texts], self._mask[texts], t, noise


def flow_batches(
    network: Network,
    tokenizer: SentencePieceProcessor,
    size: int,
    long_after: float,
    first: int,
    last: int,
) -> Iterator[tuple]:
    """What flow_loss takes, for the steps first..last - 1; the same ones every time.

    size: clips of 2 s in a batch, fewer if longer; long_after: the step from which some are.
    """

    @torch.no_grad()
    def encode(waves: np.ndarray) -> np.ndarray:
        device = network.proj.weight.device
        waves = torch.from_numpy(waves).to(device)
        return torch.cat([network.encode(wave[None]) for wave in waves]).cpu().numpy()

    def pool(number: int, seconds: int, share: float) -> list[Target]:
        count = math.ceil(ROUND * share * (2 * size / seconds) / REUSE)
        start = 1_000_000 * number + 100_000 * seconds  # no mixture comes in two rounds
        streams = map(sounds.training_rng, range(start, start + count))
        return [x for rng in streams for x in targets(encode, sounds.mixture(rng, seconds))]

    silence = encode(np.zeros((1, max(LENGTHS) * sounds.SAMPLE_RATE), np.float32))[0]
    prompts = Prompts(tokenizer, silence)
    for step in range(first, last):
        number, place = divmod(step, ROUND)
        lengths = LENGTHS if number * ROUND >= long_after else LENGTHS[:1]
        if step == first or place == 0:
            pools = {s: pool(number, s, lengths.count(s) / len(lengths)) for s in set(lengths)}
        rng, seconds = np.random.default_rng([3, step]), lengths[step % len(lengths)]
        yield prompts.batch(rng, pools[seconds], max(1, 2 * size // seconds))


def flow_loss(network: Network, latents, x1, anchors, tokens, mask, t, noise) -> Tensor:
    """Squared error of the velocity on the way from noise to x1, both (B, N, 2C), of each example.

    latents (B, N, C) of the mixture, anchors (B, N), tokens and mask (B, L), times t (B,).
    """
    text = network.text_encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    s = t[:, None, None]
    v = network(
        (1 - s) * noise + s * x1,
        torch.cat([latents, latents], dim=-1),
        text,
        t,
        text_mask=mask,
        anchor_ids=anchors,
        anchor_alignment=torch.arange(x1.shape[1], device=x1.device).expand(len(x1), -1),
    )
    return (v.float() - (x1 - noise)).square().mean((1, 2))


class Trainer:
    """Some weights of a network, their running average, and the optimizers' state."""

    def __init__(
        self,
        network: Network,
        loss: Callable,  # (network, *batch) -> (B,)
        optimizers: list[torch.optim.Optimizer],
        path: Path,
        steps: int,
    ):
        """Goes on from the state in `path` if there is one."""
        self.network, self.path, self.steps, self.last = network, path, 0, steps
        self._loss, self._optimizers = loss, optimizers
        self._peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
        trained = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        self._weights = {k: p for k, p in network.named_parameters() if id(p) in trained}
        self.average = {name: p.detach().clone() for name, p in self._weights.items()}
        if path.exists():
            saved = torch.load(path, map_location=network.proj.weight.device, weights_only=True)
            self.steps, self.average = saved["steps"], saved["average"]
            with torch.no_grad():
                for name, p in self._weights.items():
                    p.copy_(saved["weights"][name])
            for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)

    def step(self, batch: tuple[np.ndarray, ...]) -> np.ndarray:
        """One update; returns the losses of the examples."""
        device = self.network.proj.weight.device
        tensors = [torch.from_numpy(np.asarray(x)).to(device) for x in batch]
        losses = self._loss(self.network, *tensors)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        # a short rise, then half a cosine down to 0
        fall = 0.5 + 0.5 * math.cos(math.pi * min(1, self.steps / self.last))
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * fall * min(1, (self.steps + 1) / 50)
            optimizer.step()
            optimizer.zero_grad()
        keep = min(0.999, (1 + self.steps) / (10 + self.steps))
        weights = [p.detach() for p in self._weights.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - keep)
        self.steps += 1
        return losses.detach().float().cpu().numpy()

    def save(self) -> None:
        """Write the state; a break in the middle leaves the old one whole."""
        weights = {name: p.detach() for name, p in self._weights.items()}
        state = dict(steps=self.steps, weights=weights, average=self.average)
        state["optimizers"] = [optimizer.state_dict() for optimizer in self._optimizers]
        part = self.path.with_name("part-" + self.path.name)
        torch.save(state, part)
        part.replace(self.path)


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is made orthogonal, scaled to the RMS of AdamW's updates.

    PyTorch's own works in bfloat16, which takes seconds a step on CPUs that have none.
    """

    def __init__(self, weights: list[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(weights, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self) -> None:
        group, alike = self.param_groups[0], {}
        for p in group["params"]:
            alike.setdefault(p.shape, []).append(p)
        for shape, weights in alike.items():
            updates = []
            for p in weights:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(average, group["momentum"]))
            updates = orthogonal(torch.stack(updates)) * (0.2 * max(shape) ** 0.5)
            for p, update in zip(weights, updates, strict=True):
                p.sub_(update, alpha=group["lr"])


def orthogonal(x: Tensor) -> Tensor:
    """Matrices (K, M, N) with singular values near 1, by five steps of Newton and Schulz."""
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.mT


def transformer_optimizers(network: Network, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks, AdamW for the rest."""
    weights = {k: p for k, p in network.named_parameters() if not k.startswith("audio_codec.")}
    matrices = {
        name: p
        for name, p in weights.items()
        if ".layers." in name and p.ndim == 2 and "table" not in name
    }
    rest = [p for name, p in weights.items() if name not in matrices]
    adam = torch.optim.AdamW(rest, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(list(matrices.values()), peak), adam]


def fit(trainer: Trainer, batches: Callable, keep: Callable[[], None]) -> None:
    """Train up to the last step; batches(first, last) yields those of the steps between.

    After each round the state is saved, keep() called and a line logged, with the loss by quarters
    of what the examples are sorted by: the time, if they have one.
    """
    while trainer.steps < trainer.last:
        first, begun = trainer.steps, time.perf_counter()
        last = min((first // ROUND + 1) * ROUND, trainer.last)
        losses = [trainer.step(batch) for batch in batches(first, last)]
        seconds = (time.perf_counter() - begun) / (last - first)
        split = [[part.mean() for part in np.array_split(x, 4)] for x in losses if len(x) >= 4]
        quarters = np.mean(split, axis=0).tolist() if split else []
        loss = np.mean([x.mean() for x in losses])
        line = dict(stage=trainer.path.stem, step=last, loss=loss, quarters=quarters)
        text = json.dumps(line | dict(seconds_per_step=seconds), default=float)
        trainer.save()
        keep()
        with trainer.path.with_name("log.jsonl").open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--init", type=Path, help="go on from this checkpoint, and keep its codec")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--codec-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=20000, help="of everything but the codec")
    parser.add_argument("--batch", type=int, default=24, help="clips of 2 s in a step, at least 20")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest rate after the codec")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--layers", type=int, default=4, help="blocks of the transformer")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    pieces = args.out / "spiece.model"
    tokenizer = words(pieces)
    config = CONFIG | dict(transformer=CONFIG["transformer"] | dict(n_layers=args.layers))
    torch.manual_seed(args.seed)
    network = Network(config, tokenizer.vocab_size())
    if args.init:
        load(network, tokenizer, args.init)
    else:
        clips = [sounds.mixture(sounds.training_rng(i)).mixture for i in range(48)]
        codec.klt_start(network, torch.from_numpy(np.stack(clips)))
        open_gates(network)
    network.to(args.device)

    def checkpoint(trainer: Trainer) -> None:
        weights = network.state_dict() | trainer.average
        save(network, config, pieces, args.out / "checkpoint", weights)

    if not args.init:
        adam = torch.optim.AdamW(
            network.audio_codec.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4
        )
        stage = args.out / "codec.pt"
        trainer = Trainer(network, codec.loss, [adam], stage, args.codec_steps)
        batches = partial(codec.batches, args.batch // 3)  # a pair makes three clips
        fit(trainer, batches, partial(checkpoint, trainer))
        network.load_state_dict(trainer.average, strict=False)

    network.audio_codec.requires_grad_(False)
    optimizers = transformer_optimizers(network, args.lr)
    stage = args.out / "transformer.pt"
    mixed = torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16)
    trainer = Trainer(network, mixed(flow_loss), optimizers, stage, args.steps)
    batches = partial(flow_batches, network, tokenizer, args.batch, 0.5 * args.steps)
    fit(trainer, batches, partial(checkpoint, trainer))


def open_gates(network: Network) -> None:
    """Let every block of an untrained transformer add something from the first step."""
    with torch.no_grad():
        for layer in network.transformer.layers:
            layer.scale_shift_table[2::3] += 0.5
        network.embed_anchors.gate += 0.5
        network.transformer.output.weight *= 0.5


if __name__ == "__main__":
    main()
