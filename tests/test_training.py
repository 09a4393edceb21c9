"""The training of the demo model, which needs hours: here only that it can learn."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
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
