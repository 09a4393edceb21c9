"""The models that benchmarks build have the published sizes, and what they take of kernels."""

import pytest
from mlx.utils import tree_flatten

from benchmarks import kernels, models, networks


def parameters(network) -> int:
    return sum(value.size for _, value in tree_flatten(network.parameters()))


@pytest.mark.parametrize(
    "name, count",
    [
        ("PE-Core-L14-336", 317_151_232),
        ("PE-A-Frame large", 1_429_154_050),
        ("CLAP", 153_525_848),
        ("ImageBind", 719_065_088),
        ("audiobox-aesthetics", 103_858_216),  # without mask_emb and 128 factors of a norm
    ],
)
def test_networks(name, count):
    assert parameters(networks.NETWORKS[name]().network) == count


@pytest.mark.parametrize("size, widths", [("small", 1536), ("base", 2048), ("large", 2816)])
def test_models(size, widths):
    model = models.build(size, "float16")
    assert model.hop_length == 1920 and model.config.transformer.dim == widths
    (head,) = [v for k, v in tree_flatten(model.network.parameters()) if k == "proj.noisy.weight"]
    assert head.shape == (widths, 2 * 128)


@pytest.mark.parametrize(
    "dtype, most", [("float32", (328, 120, 121)), ("float16", (378, 121, 123))]
)
def test_no_kernel_more(dtype, most):
    found = kernels.count("ours", "small", dtype)
    totals = [found[stage].total() for stage in ("evaluation", "encode", "decode")]
    assert all(total <= bound for total, bound in zip(totals, most, strict=True)), found
