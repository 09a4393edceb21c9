"""The training of the demo model, which needs hours: here only that it can learn, and go on."""

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

for needed in ("torch", "transformers", "einops", "dacvae", "sam_audio"):
    if find_spec(needed) is None:
        skipped = f"{needed} is not installed: training/network.py says what it needs"
        pytest.skip(skipped, allow_module_level=True)

import torch  # noqa: E402

from mlx_sam_audio.demo import sounds  # noqa: E402
from training import codec, network, train  # noqa: E402

FRAMES, WORDS = 20, 8
SMALL = dict(dim=32, n_heads=2, n_layers=1, context_dim=32)
CONFIG = network.CONFIG | dict(transformer=network.CONFIG["transformer"] | SMALL)


def made() -> network.Network:
    torch.manual_seed(0)
    return network.Network(CONFIG, WORDS)


def flow_batches(first: int, last: int, batch: int = 4):
    for step in range(first, last):
        rng = np.random.default_rng(step)
        latents = rng.standard_normal((batch, FRAMES, network.CHANNELS), np.float32)
        x1, noise = rng.standard_normal((2, batch, FRAMES, 2 * network.CHANNELS), np.float32)
        anchors = (rng.random((batch, FRAMES)) < 0.5).astype(np.int64)
        tokens = rng.integers(3, WORDS, (batch, 5))
        times = rng.random(batch).astype(np.float32)
        yield latents, x1, anchors, tokens, tokens > 0, times, noise


def trainer(path, steps: int) -> train.Trainer:
    net = made()
    net.audio_codec.requires_grad_(False)
    train.open_gates(net)
    return train.Trainer(net, train.flow_loss, train.transformer_optimizers(net, 3e-3), path, steps)


@pytest.mark.parametrize("stage", ["codec", "transformer"])
def test_the_loss_has_gradients(stage):
    net = made()
    train.open_gates(net)
    if stage == "codec":
        clips = [sounds.mixture(sounds.training_rng(i)).mixture for i in range(8)]
        codec.klt_start(net, torch.from_numpy(np.stack(clips)))
        weights, (batch,) = net.audio_codec, codec.batches(1, 0, 1)
        loss = codec.loss(net, *map(torch.from_numpy, batch))
    else:
        weights, (batch,) = net.transformer, flow_batches(0, 1)
        loss = train.flow_loss(net, *map(torch.from_numpy, batch))
    loss.mean().backward()
    strengths = [0.0 if p.grad is None else p.grad.abs().max().item() for p in weights.parameters()]
    assert np.isfinite(strengths).all() and np.mean(np.array(strengths) > 0) > 0.9


def test_the_codec_starts_as_a_transform():
    net = made()
    waves = np.stack([sounds.mixture(sounds.training_rng(i)).mixture for i in range(8)])
    waves = torch.from_numpy(waves)
    codec.klt_start(net, waves)
    with torch.no_grad():
        error = waves - net.decode(net.encode(waves))
    ratio = waves.square().mean() / error.square().mean()
    assert 10 * torch.log10(ratio).item() > 8


def test_steps_lower_the_loss(tmp_path):
    learner = trainer(tmp_path / "state.pt", 100)
    (batch,) = flow_batches(0, 1)
    losses = [learner.step(batch).mean() for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_break_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROUND", 2)
    whole, broken = (trainer(tmp_path / name, 4) for name in ("whole.pt", "broken.pt"))
    train.fit(whole, flow_batches, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        train.fit(broken, partial(interrupted, at=3), lambda: None)
    again = trainer(tmp_path / "broken.pt", 4)
    assert again.steps == 2
    train.fit(again, flow_batches, lambda: None)
    for name, value in whole.average.items():
        assert torch.equal(value, again.average[name]), name


def interrupted(first: int, last: int, at: int):
    for step, batch in enumerate(flow_batches(first, last), first):
        if step == at:
            raise KeyboardInterrupt
        yield batch


def test_a_checkpoint_comes_back(tmp_path):
    """With more blocks and words than it was made with, and the same result at first."""
    net, words = made(), network.words(tmp_path / "spiece.model")
    net = network.Network(CONFIG, words.vocab_size())
    network.save(net, CONFIG, tmp_path / "spiece.model", tmp_path / "made", net.state_dict())
    deeper = CONFIG | dict(transformer=CONFIG["transformer"] | dict(n_layers=2))
    grown = network.Network(deeper, words.vocab_size())
    network.load(grown, words, tmp_path / "made")
    (batch,) = flow_batches(0, 1)
    with torch.no_grad():
        losses = [train.flow_loss(n.eval(), *map(torch.from_numpy, batch)) for n in (net, grown)]
    assert torch.allclose(*losses, rtol=1e-5)
    wave = torch.from_numpy(sounds.mixture(sounds.training_rng(0)).mixture)[None]
    with torch.no_grad():
        assert torch.allclose(net.encode(wave), grown.encode(wave), atol=1e-5)
