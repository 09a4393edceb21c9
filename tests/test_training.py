"""The training of the demo model, which needs hours: here only that it can learn."""

import subprocess
import sys
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import ranks
from mlx.utils import tree_flatten, tree_map

from mlx_sam_audio.loading import load, store
from training import codec, train


@pytest.mark.parametrize("stage", ["codec", "transformer"])
def test_the_loss_has_gradients(stage):
    mx.random.seed(0)
    _, network, tokenizer = load.load(store.DEMO)
    network.freeze()
    channels, hop = codec.CONFIG.codebook_dim, codec.CONFIG.hop_length
    if stage == "codec":
        network.audio_codec.unfreeze()
        loss, waves = codec.loss, mx.random.normal((2, 1, max(codec.WINDOWS)))
        batch = *waves, mx.zeros((3, waves.shape[-1] // hop, channels))
    else:
        network.transformer.unfreeze()
        latents, anchors, times = mx.random.normal((1, 5, channels)), mx.zeros((1, 5)), mx.ones(1)
        x1, noise = mx.random.normal((2, 1, 5, 2 * channels))
        batch = latents, x1, anchors.astype(mx.int32), *tokenizer(["a bell"]), 0.5 * times, noise
        loss = train.flow_loss
    value, gradients = nn.value_and_grad(network, partial(loss, network))(*batch)
    strengths = np.array([mx.abs(gradient).max().item() for _, gradient in tree_flatten(gradients)])
    assert np.isfinite(strengths).all() and np.mean(strengths > 0) > 0.9

    # along the gradient, the loss rises as steeply as the gradient is long
    before = network.trainable_parameters()
    steepness = np.sqrt(sum(mx.square(g).sum().item() for _, g in tree_flatten(gradients)))
    step = 3e-4 * value.item() / steepness**2

    def after(way: float) -> float:
        network.update(tree_map(lambda p, g: p + way * g, before, gradients))
        return loss(network, *batch).item()

    assert after(step) - after(-step) == pytest.approx(2 * step * steepness**2, rel=0.02)


def test_a_grown_model_knows_what_it_knew(tmp_path):
    config, network, tokenizer = train.grown("demo", tmp_path / "spiece.model")
    _, before, old = load.load(store.DEMO)
    found = [
        n.text_encoder(*t(["a bell ringing"])) for n, t in ((network, tokenizer), (before, old))
    ]
    assert mx.array_equal(*found).item() and config.vocabulary is None


TRAIN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
from pathlib import Path
from training.train import Trainer
group = mx.distributed.init()
mx.random.seed(0)
x, loss = mx.random.normal((4, 3)), lambda network, x: mx.square(network(x) - x[:, :1]).mean()
trainer = Trainer(nn.Linear(3, 1), loss, optim.SGD(0.1), Path("none"))
for _ in range(3):
    trainer.step([mx.split(x, group.size())[group.rank()]])
print(*trainer.network.weight.flatten().tolist())
"""


def test_two_processes_train_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [sys.executable, "-c", TRAIN]
    alone = subprocess.run(words, env=ranks.ENVIRONMENT, capture_output=True, text=True)
    with ranks.started(2, *words) as both:
        said = [alone.stdout, *(ranks.ended(rank)[1] for rank in both)]
    one, first, second = (np.array(text.split(), float) for text in said)
    assert len(one) == 3 and np.array_equal(first, second)
    np.testing.assert_allclose(first, one, atol=1e-6)
