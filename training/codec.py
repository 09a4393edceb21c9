"""The first stage of the demo's training: a codec that carries mixtures as sums of their sounds.

P pairs of sounds, T samples, N latent frames, C latent channels.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mlx_sam_audio.demo import sounds

from .network import CHANNELS, Network

SECONDS = 0.768  # of a clip: whole latent frames and whole windows of every size
WINDOWS = (2048, 512, 128)
NOISE = 0.15  # at most, relative to the latents


@torch.no_grad()
def klt_start(network: Network, audio: Tensor) -> None:
    """Make the codec a Karhunen-Loeve transform of blocks of `hop` samples.

    The encoder's strides gather samples, the first by a cosine transform; the principal components
    of what they gather on `audio` (B, T) become the latents. The decoder is the transpose. Training
    goes on from there: random weights reach 4 dB in the time in which these go from 11 to 17 dB.
    """
    codec = network.audio_codec
    for module in codec.modules():  # nearly linear, nearly zero
        if hasattr(module, "alpha") and isinstance(module.alpha, nn.Parameter):
            module.alpha.fill_(0.1)
        elif isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            module.weight *= 0.02
            module.bias.zero_()

    first, *stages, _, last = codec.encoder.block
    opening, *mirrors = codec.decoder.model
    first.weight[0, 0, 3] = codec.decoder.wm_model.encoder_block.pre[1].weight[0, 0, 3] = 1.0
    used = 1  # channels that carry something
    for stage, mirror in zip(stages, reversed(mirrors), strict=True):
        down, up = stage.block[-1], mirror.block[1]
        stride = down.stride[0]
        matrix = cosines(stride) if used == 1 else torch.eye(stride * used)
        part = matrix.reshape(-1, stride, used).mT  # of each frame's own samples, undone by `up`
        own = slice(stride // 2, stride // 2 + stride)  # the middle of a kernel of two strides
        down.weight[: len(part), :used, own] = up.weight[: len(part), :used, own] = part
        used *= stride

    gathered = codec.encoder.block[:-1](audio[:, None]).transpose(1, 2).reshape(-1, used)
    _, vectors = torch.linalg.eigh(gathered.T.cov())  # ascending
    basis = vectors.T.flip(0)[: len(last.weight)]
    last.weight[:, :, 1], opening.weight[:, :, 3] = basis, basis.T

    into, out = codec.quantizer.in_proj, codec.quantizer.out_proj
    kept = torch.eye(CHANNELS, len(basis))
    rms = (gathered @ basis.T @ kept.T).square().mean().sqrt()
    into.weight[:CHANNELS, :, 0], out.weight[:, :, 0] = kept / rms, kept.T * rms


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II), (size, size)."""
    k = torch.arange(size)
    matrix = torch.cos(math.pi / size * k[:, None] * (k + 0.5)) * (2 / size) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix


def spectral_loss(x: Tensor, y: Tensor) -> Tensor:
    """Differences of spectra of (B, T): complex, of magnitudes, a little of their logarithms."""
    total = 0.0
    for size in WINDOWS:
        window = torch.hann_window(size, device=x.device)
        fx, fy = (
            torch.view_as_real(torch.stft(z, size, size // 4, window=window, return_complex=True))
            / size**0.5
            for z in (x, y)
        )
        ax, ay = ((f.square().sum(-1) + 1e-10).sqrt() for f in (fx, fy))  # smooth at 0
        total = total + (fx - fy).abs().sum(-1).mean() + (ax - ay).abs().mean()
        total = total + 0.01 * ((ax + 1e-4).log() - (ay + 1e-4).log()).abs().mean()
    return total


def loss(network: Network, a: Tensor, b: Tensor, noise: Tensor) -> Tensor:
    """Sounds a and b (P, T) and their sums must survive `noise` (3P, N, C) on the latents; (1,).

    Besides, the latents of a sum shall be the sum of the latents, which makes separation easy, and
    their RMS 1, which is that of the noise from which the transformer starts.
    """
    waves = torch.cat([a, b, a + b])
    z = network.encode(waves)
    power = z.square().mean()
    # noise in place of a variational bottleneck; relative to z, or the encoder would outgrow it
    decoded = network.decode(z + power.sqrt() * noise)
    distortion = (waves - decoded).square().mean(1) + 1e-8
    snr = ((waves.square().mean(1) + 1e-8) / distortion).log10().mean()
    za, zb, zsum = z.chunk(3)
    extra = (zsum - za - zb).square().mean() / power
    scale = power.log().square()
    total = 10 * spectral_loss(waves, decoded) - 0.5 * snr + 0.1 * extra + 0.0125 * scale
    return total[None]


def batches(pairs: int, first: int, last: int) -> Iterator[tuple]:
    """What `loss` takes, for the steps first..last - 1; the same ones every time."""
    for step in range(first, last):
        numbers = range(step * pairs, (step + 1) * pairs)
        drawn = [sounds.mixture(sounds.training_rng(i), SECONDS, count=2) for i in numbers]
        a, b = np.stack([mixture.sources for mixture in drawn], axis=1)
        rng = np.random.default_rng([2, step])  # [0, ...] and [1, ...] are the sounds'
        noise = rng.standard_normal((3 * pairs, a.shape[1] // sounds.HOP, CHANNELS), np.float32)
        noise *= rng.uniform(0, NOISE, (3 * pairs, 1, 1)).astype(np.float32)
        yield a, b, noise
