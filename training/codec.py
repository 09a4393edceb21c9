"""The first stage of the demo's training: a codec that carries mixtures as sums of their sounds.

P pairs of sounds, T samples, N latent frames, C latent channels.
"""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from mlx_sam_audio.demo import sounds
from mlx_sam_audio.models.conv import Conv1d, StridedConv1d, TransposedConv1d
from mlx_sam_audio.models.dacvae import DACVAE, CodecConfig, Snake, run
from mlx_sam_audio.models.sam_audio import Network

CONFIG = CodecConfig(
    sample_rate=sounds.SAMPLE_RATE,
    encoder_dim=16,
    encoder_rates=(8, 4, 4),
    latent_dim=64,
    decoder_dim=128,
    decoder_rates=(4, 4, 8),
    codebook_dim=40,
    watermark=False,
    watermark_rates=(),
)
SECONDS = 0.768  # of a clip: whole latent frames and whole windows of every size
WINDOWS = (2048, 512, 128)
NOISE = 0.15  # at most, relative to the latents


def klt_start(codec: DACVAE, audio: mx.array) -> None:
    """Make the codec a Karhunen-Loeve transform of blocks of `hop` samples.

    The encoder's strides gather samples, the first by a cosine transform; the principal components
    of what they gather on `audio` (B, T) become the latents. The decoder is the transpose. Training
    goes on from there: random weights reach 4 dB in the time in which these go from 11 to 17 dB.
    """
    for module in codec.modules():  # nearly linear, nearly zero
        if isinstance(module, Snake):
            module.alpha = mx.full(module.alpha.shape, 0.1)
        elif isinstance(module, (Conv1d, StridedConv1d, TransposedConv1d)):
            module.weight = 0.02 * module.weight

    first, *stages, _, last = codec.encoder.block
    opening, *mirrors = codec.decoder.model
    first.weight[0, 3, 0] = codec.decoder.final[1].weight[0, 3, 0] = 1.0
    used = 1  # channels that carry something
    for stage, mirror in zip(stages, reversed(mirrors), strict=True):
        down, up = stage.block[-1], mirror.block[1]
        stride = up.weight.shape[0] // up.bias.size
        gather(down, up, cosines(stride) if used == 1 else np.eye(stride * used))
        used *= stride

    gathered = run(codec.encoder.block[:-1], audio[..., None]).reshape(-1, used)
    _, vectors = np.linalg.eigh(np.cov(np.array(gathered).T))  # ascending
    basis = mx.array(vectors.T[::-1][: len(last.weight)].astype(np.float32))
    last.weight[:, 1], opening.weight[:, 3] = basis, basis.T

    into, out = codec.quantizer.in_proj, codec.quantizer.out_proj
    kept = mx.eye(*into.weight.shape)
    rms = mx.sqrt(mx.square(gathered @ basis.T @ kept.T).mean())
    into.weight, out.weight = kept / rms, kept.T * rms
    into.bias, out.bias = mx.zeros_like(into.bias), mx.zeros_like(out.bias)


def cosines(size: int) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II), (size, size)."""
    k = np.arange(size)
    matrix = np.cos(np.pi / size * k[:, None] * (k + 0.5)) * (2 / size) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix


def gather(down: StridedConv1d, up: TransposedConv1d, matrix: np.ndarray) -> None:
    """Make `down` apply a matrix (K, stride * used) to each frame's own samples, `up` undo it."""
    stride = up.weight.shape[0] // up.bias.size
    count, used = len(matrix), matrix.shape[1] // stride
    part = mx.array(matrix.reshape(count, stride, used), dtype=mx.float32)
    own = slice(stride // 2, stride // 2 + stride)  # the middle of a kernel of two strides

    kernel = down.weight.reshape(len(down.weight), 2 * stride, -1)
    kernel[:count, own, :used] = part
    down.weight = kernel.reshape(down.weight.shape)

    taps = up.weight.swapaxes(0, 1)[::-1]  # the frame's own block of samples, then the next
    kernel = taps.reshape(2 * stride, up.bias.size, -1)
    kernel[own, :used, :count] = part.transpose(1, 2, 0)
    up.weight = kernel.reshape(taps.shape)[::-1].swapaxes(0, 1)


def spectrum(x: mx.array, size: int) -> mx.array:
    """Short-time Fourier transform of (B, T) with hop size / 4, RMS about that of x."""
    hop = size // 4
    x = mx.pad(x, ((0, 0), (hop, -x.shape[1] % hop + hop)))
    blocks = x.reshape(len(x), -1, hop)
    count = blocks.shape[1] - 3
    frames = mx.concatenate([blocks[:, i : i + count] for i in range(4)], axis=-1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size, dtype=np.float32) / size)
    return mx.fft.rfft(frames * mx.array(window)) / size**0.5


def magnitude(x: mx.array) -> mx.array:
    return mx.sqrt(mx.square(x.real) + mx.square(x.imag) + 1e-10)  # smooth at 0


def spectral_loss(x: mx.array, y: mx.array) -> mx.array:
    """Differences of spectra of (B, T): complex, of magnitudes, a little of their logarithms."""
    total = 0.0
    for size in WINDOWS:
        fx, fy = spectrum(x, size), spectrum(y, size)
        ax, ay = magnitude(fx), magnitude(fy)
        error = mx.abs((fx - fy).real) + mx.abs((fx - fy).imag) + mx.abs(ax - ay)
        error = error + 0.01 * mx.abs(mx.log(ax + 1e-4) - mx.log(ay + 1e-4))
        total = total + error.mean()
    return total


def loss(network: Network, a: mx.array, b: mx.array, noise: mx.array) -> mx.array:
    """Sounds a and b (P, T) and their sums must survive `noise` (3P, N, C) on the latents.

    Besides, the latents of a sum shall be the sum of the latents, which makes separation easy, and
    their RMS 1, which is that of the noise from which the transformer starts.
    """
    codec, waves = network.audio_codec, mx.concatenate([a, b, a + b])
    z = codec.encode(waves)
    power = mx.square(z).mean()
    # noise in place of a variational bottleneck; relative to z, or the encoder would outgrow it
    decoded = codec.decode(z + mx.sqrt(power) * noise)
    distortion = mx.square(waves - decoded).mean(1) + 1e-8
    snr = mx.log10((mx.square(waves).mean(1) + 1e-8) / distortion).mean()
    za, zb, zsum = mx.split(z, 3)
    extra = mx.square(zsum - za - zb).mean() / power
    scale = mx.square(mx.log(power))
    return 10 * spectral_loss(waves, decoded) - 0.5 * snr + 0.1 * extra + 0.0125 * scale


def batches(pairs: int, first: int, last: int) -> Iterator[tuple]:
    """What `loss` takes, for the steps first..last - 1; the same ones every time.

    pairs: of this process.
    """
    group = mx.distributed.init()
    for step in range(first, last):
        start = (step * group.size() + group.rank()) * pairs
        numbers = range(start, start + pairs)
        drawn = [sounds.mixture(sounds.training_rng(i), SECONDS, count=2) for i in numbers]
        a, b = np.stack([mixture.sources for mixture in drawn], axis=1)
        # seeds that begin with 0 or 1 are the sounds'
        rng = np.random.default_rng([2, step, group.rank()])
        shape = (3 * pairs, a.shape[1] // CONFIG.hop_length, CONFIG.codebook_dim)
        noise = rng.standard_normal(shape, np.float32)
        noise *= rng.uniform(0, NOISE, (3 * pairs, 1, 1)).astype(np.float32)
        yield mx.array(a), mx.array(b), mx.array(noise)
