"""A real converted checkpoint against goldens that the reference wrote on CUDA.

pytest -m weights --model small --golden golden.safetensors
"""

import pytest

from benchmarks import parity
from mlx_sam_audio import SAMAudio

# stage, waveform; half precision is bounded by its own rounding, not by a mistake
BOUNDS = {"float32": (1e-4, 1e-3), "float16": (2e-2, 2e-1), "bfloat16": (1e-1, 5e-1)}


@pytest.mark.weights
def test_real_weights(pytestconfig):
    model, path = pytestconfig.getoption("model"), pytestconfig.getoption("golden")
    if not model or not path:
        pytest.fail("give the converted model and its goldens: --model MODEL --golden FILE")
    model, golden = SAMAudio.from_pretrained(model), parity.Golden(path)
    stage, waveform = BOUNDS[model.config.dtype]
    errors = parity.stages(model, golden)
    print(*(f"{name:20s} {error:.1e}" for name, error in errors.items()), sep="\n")
    assert max(errors.values()) <= stage, errors
    errors = parity.waveforms(model, golden)
    print(*(f"{name:24s} {error:.1e}" for name, error in errors.items()), sep="\n")
    assert max(errors.values()) <= waveform, errors
