"""Functions that have stand-ins for MLX's CPU backend, on either side, against float64."""

import threading

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam_audio.models import conv, cpu, layers, watermark
from mlx_sam_audio.models.dacvae import Snake

pytestmark = pytest.mark.usefixtures("side")
X = np.concatenate([np.linspace(-80, 80, 100_001), [-1e4, -1e-6, 0, 1e-6]]).astype(np.float32)
WIDE = X.astype(np.float64)


def test_exp():
    found = np.array(cpu.exp(mx.array(X[X > -1e3])))
    assert np.allclose(found, np.exp(WIDE[X > -1e3]), rtol=4e-6, atol=0)
    assert 0 <= cpu.exp(mx.array(-mx.inf)).item() < 2e-38


@pytest.mark.parametrize(
    "found, expected",
    [
        (layers.silu, WIDE / (1 + np.exp(-WIDE.clip(-700)))),
        (watermark.elu, np.where(WIDE > 0, WIDE, np.expm1(np.minimum(WIDE, 0)))),
    ],
)
def test_activations(found, expected):
    assert np.allclose(np.array(found(mx.array(X))), expected, rtol=2e-7, atol=5e-7)


def test_swiglu():
    a, b = X[:1000].reshape(2, 500), X[-1000:].reshape(2, 500)
    found = layers.swiglu(mx.array(np.concatenate([a, b], axis=1)))
    wide = a.astype(np.float64)
    assert np.allclose(np.array(found), wide / (1 + np.exp(-wide)) * b, rtol=4e-6, atol=1e-30)


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked):
    q, k, v = mx.random.normal((3, 2, 3, 50, 16), key=mx.random.key(0))
    mask = np.arange(50) < (30 if masked else 50)
    found = layers.attention(q, k, v, mx.array(mask)[None, None, None] if masked else None)
    q, k, v = (np.array(x, dtype=np.float64) for x in (q, k, v))
    weights = np.exp(q @ k.swapaxes(-1, -2) / 4) * mask
    expected = weights / weights.sum(axis=-1, keepdims=True) @ v
    assert np.allclose(np.array(found), expected, rtol=0, atol=2e-6)


def test_rms_norm():
    x, weight = mx.random.normal((40, 16), key=mx.random.key(0)) * 1e-2, mx.arange(16.0)
    wide = np.array(x, dtype=np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + 1e-5) * np.arange(16)
    assert np.allclose(np.array(layers.rms_norm(x, weight, 1e-5)), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("outputs, taps, dilation", [(3, 1, 1), (3, 7, 9), (512, 2, 1)])
def test_convolution(outputs, taps, dilation):
    x = mx.random.normal((2, 70, 5), key=mx.random.key(0))
    weight = mx.random.normal((outputs, taps, 5), key=mx.random.key(1))
    wide, frames = np.array(x, dtype=np.float64), 70 - (taps - 1) * dilation
    shifted = [wide[:, k * dilation : k * dilation + frames] for k in range(taps)]
    expected = np.einsum("kbtc,dkc->btd", shifted, np.array(weight, dtype=np.float64))
    assert np.allclose(np.array(conv.conv1d(x, weight, dilation)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3, 3.0, 40.0])
def test_snake(alpha, dtype):
    layer = Snake(1)
    layer.alpha = mx.array([alpha]).astype(dtype)
    x = mx.array(X[:100_001:10, None]).astype(dtype)
    wide, a = np.array(x.astype(mx.float32)).astype(np.float64), layer.alpha.item()
    found = layer(x)
    assert found.dtype == dtype
    expected = wide + np.sin(a * wide) ** 2 / (a + 1e-9)
    tolerance = {mx.float32: 3e-5, mx.float16: 0.05, mx.bfloat16: 0.4}[dtype]
    assert np.allclose(np.array(found.astype(mx.float32)), expected, rtol=0, atol=tolerance)


def test_a_snake_follows_its_weights():
    x, layer = mx.linspace(-3, 3, 100)[:, None], Snake(1)
    before = layer(x)
    layer.update({"alpha": mx.array([3.0])})
    fresh = Snake(1)
    fresh.alpha = mx.array([3.0])
    assert (layer(x) == fresh(x)).all().item() and not (layer(x) == before).all().item()
    assert list(layer.parameters()) == ["alpha"]


def test_what_a_thread_left_uncomputed_is_computed_in_another():
    x, layer = mx.ones((4, 1)), Snake(1)
    thread = threading.Thread(target=layer, args=(x,))
    thread.start()
    thread.join()
    assert np.allclose(np.array(layer(x)), 1 + np.sin(1) ** 2)


def test_compiled_functions_are_traced_for_each_side():
    choose = cpu.quicker(lambda x: x - 1)(lambda x: x + 1)
    twice = cpu.compiled(lambda x: choose(choose(x)))
    for use, expected in ((True, -2), (False, 2), (True, -2)):
        with cpu.forced(use):
            assert twice(mx.zeros(())).item() == expected
