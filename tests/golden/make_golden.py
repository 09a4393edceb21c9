"""Write golden tensors: inputs, and what the PyTorch reference computes from them, by stages.

Runs where facebookresearch/sam-audio, its dependencies and transformers are installed. What has to
do with video goes to vision.safetensors.

    python make_golden.py tiny
        a tiny checkpoint with random weights, and its goldens
    python make_golden.py DIR/tiny --seed 3 --samples 50000 30000 --prompt rain --prompt "a bell" \
        --sizes '{"transformer": {"n_layers": 3}, "vision_encoder": {"tower": {"layers": 2}}}'
        others, for pytest -m parity --goldens DIR
    python make_golden.py OUT --checkpoint facebook/sam-audio-small --device cuda
        goldens of a real checkpoint; convert the same one on a Mac and compare with
        pytest -m weights --model MODEL --golden OUT/golden.safetensors
"""

import argparse
import io
import json
import math
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from safetensors.torch import save_file

PROMPTS = ["dog barking", "A man speaking while rain falls on gravel"]
TEXT = """A man speaking while a dog barks. Piano playing. Drums. Rain falls heavily on the ground.
Woman singing, acoustic guitar, crowd cheering; car horn honking; birds chirping; thunder rolls.
Footsteps on gravel, a door slams shut, phone rings twice, a baby is crying, water is pouring.
"""
TINY = dict(
    in_channels=48,
    audio_codec=dict(
        encoder_dim=4, encoder_rates=[2, 8, 10, 12], latent_dim=24, decoder_dim=96,
        decoder_rates=[12, 10, 8, 2], n_codebooks=2, codebook_size=16, codebook_dim=8,
        quantizer_dropout=False, sample_rate=48_000,
    ),
    text_encoder=dict(name="t5", max_length=512, pad_mode="longest", dim=16),
    vision_encoder=dict(
        dim=16, batch_size=4, name="PE-Tiny", normalize_feature=True,
        interpolation_mode="BICUBIC", image_size=32,
        tower=dict(patch_size=8, width=16, layers=1, heads=2),  # which the reference looks up
    ),
    transformer=dict(
        dim=48, n_heads=4, n_layers=2, multiple_of=16, context_dim=48,
        frequency_embedding_dim=32, out_channels=16,
    ),
    num_anchors=3, anchor_embedding_dim=8, visual_ranker=None, text_ranker=None,
    span_predictor=None,
)  # fmt: skip


def randomise(module: torch.nn.Module) -> None:
    """Give every parameter a scale at which each term of the network shows in the output."""
    modules = dict(module.named_modules())
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("alpha"):
                value.uniform_(0.5, 2.0)
            elif name.endswith("gate"):
                value.fill_(0.6)
            elif ("norm" in name or "ln_" in name) and name.endswith("weight"):
                value.uniform_(0.7, 1.3)
            elif name.endswith("bias"):
                value.normal_(0, 0.1)
            elif value.ndim >= 2 and not name.endswith("weight_g"):
                fan = 4 if "embed" in name or "shared" in name else value[0].numel()
                value.normal_(0, 1 / math.sqrt(fan))
        for name, value in module.named_parameters():
            if name.endswith("weight_g"):
                v = modules[name.rpartition(".")[0]].weight_v
                norm = v.square().sum(tuple(range(1, v.ndim)), keepdim=True).sqrt()
                value.copy_(norm * torch.empty_like(value).uniform_(0.7, 1.1))


class LocalT5(torch.nn.Module):
    """The reference's T5TextEncoder over local weights, tokenised as T5 does."""

    def __init__(self, config):
        super().__init__()
        pieces = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter((TEXT + TEXT.lower()) .splitlines() * 4), model_writer=pieces,
            vocab_size=120, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            pad_piece="<pad>", hard_vocab_limit=False, minloglevel=2,
            normalization_rule_name="identity",
        )  # fmt: skip
        self.pieces = pieces.getvalue()
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=self.pieces)
        self.model = transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=self.processor.vocab_size() + 4,
                d_model=config.dim,
                d_kv=4,
                d_ff=2 * config.dim,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="relu",
            )  # fmt: skip
        )

    def forward(self, texts):
        rows = [self.processor.encode(text) + [1] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return self.model(input_ids=tokens, attention_mask=mask).last_hidden_state, mask.bool()


def merged(sizes: dict, changes: dict) -> dict:
    """Sizes with some of them changed, at any depth. Raises KeyError for what is no size."""
    return sizes | {
        key: merged(sizes[key], value) if isinstance(sizes[key], dict) else value
        for key, value in changes.items()
    }


def build_tiny(folder: Path, sizes: dict, seed: int):
    """The reference's model at tiny sizes with random weights, saved as Meta saves it."""
    import dacvae.model.dacvae as dac
    from core.vision_encoder import config as pe
    from sam_audio.model import model as reference
    from sam_audio.model.config import SAMAudioConfig

    # widths that are constants in the reference follow a small decoder
    watermarker, decoder_init = dac.Watermarker, dac.Decoder.__init__
    width = sizes["audio_codec"]["decoder_dim"]
    dac.Watermarker = lambda *args, **kw: watermarker(*args, **{**kw, "hidden": width // 3})
    dac.Decoder.__init__ = lambda self, *args: decoder_init(
        self, *args, wm_channels=width // 3 // 16
    )
    vision = dict(sizes["vision_encoder"])
    pe.PE_VISION_CONFIG[vision["name"]] = pe.PEConfig(
        **vision.pop("tower"), image_size=vision["image_size"], mlp_ratio=4.0,
        output_dim=vision["dim"], use_cls_token=True, use_rope2d=True, pool_type="attn",
    )  # fmt: skip
    pe.PE_TEXT_CONFIG[vision["name"]] = pe.PETextConfig(
        context_length=8, width=16, heads=2, layers=1, output_dim=vision["dim"], vocab_size=64
    )
    reference.T5TextEncoder = LocalT5

    torch.manual_seed(seed)
    config = json.loads(json.dumps({**sizes, "vision_encoder": vision}))
    model = reference.SAMAudio(SAMAudioConfig(**config)).eval()
    randomise(model)
    with torch.no_grad():  # latents and waveforms of an everyday level, so that tanh is not flat
        model.transformer.output.weight *= 0.1
        model.audio_codec.quantizer.in_proj.weight_g *= 0.2
        model.audio_codec.decoder.wm_model.encoder_block.pre[1].weight_g *= 0.2

    (folder / "t5").mkdir(exist_ok=True)
    model.text_encoder.model.save_pretrained(folder / "t5")
    (folder / "t5" / "spiece.model").write_bytes(model.text_encoder.pieces)
    (folder / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("text_encoder.")}
    torch.save(state, folder / "checkpoint.pt")
    return model


def sounds(lengths: list[int], rate: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    waves = []
    for i, length in enumerate(lengths):
        t = np.arange(length) / rate
        wave = 0.4 * np.sin(2 * np.pi * (220 + 110 * i) * t) * (t % 0.25 < 0.15)
        waves.append((wave + 0.05 * generator.standard_normal(length)).astype(np.float32))
    return waves


def goldens(model, prompts, lengths: list[int], seed: int, device: str) -> tuple[dict, dict]:
    from sam_audio.processor import SAMAudioProcessor

    codec, hop, rate = model.audio_codec, int(model.audio_codec.hop_length), model.sample_rate
    process = SAMAudioProcessor(audio_hop_length=hop, audio_sampling_rate=rate)
    waves = sounds(lengths, rate, seed)
    parts = [[("+", 0.1, 0.4), ("-", 0.6, 0.8)], [("+", 0.25, 0.7)]]
    spans = [
        [[sign, start * length / rate, end * length / rate] for sign, start, end in parts[i % 2]]
        for i, length in enumerate(lengths)
    ]
    everyone = list(range(len(lengths)))

    def batch(prompt: str, items: list[int]):
        return process(
            [prompts[i] for i in items],
            [torch.tensor(waves[i])[None] for i in items],
            anchors=[spans[i] for i in items] if prompt == "span" else None,
        ).to(device)

    generator = torch.Generator().manual_seed(seed)
    out = {f"input.audio.{i}": torch.tensor(wave) for i, wave in enumerate(waves)}
    plain = batch("text", everyone)
    out["text.features"], out["text.mask"] = model.text_encoder(prompts)
    latents = codec(plain.audios)  # (B, C, N)
    out["codec.latents"] = latents.transpose(1, 2)

    message = torch.randint(0, 2, (2 * len(waves), 16), generator=generator).float().to(device)
    out["input.message"] = message
    out |= decoded(codec, latents, message)

    shape = (len(waves), latents.shape[2], 2 * latents.shape[1])
    noise = torch.randn(shape, generator=generator).to(device)
    time = torch.linspace(0.1, 0.8, len(waves)).to(device)
    out["input.noise"], out["input.time"] = noise, time
    for name in ("text", "span"):
        inputs = model._get_forward_args(batch(name, everyone))
        out[f"velocity.{name}"] = model(noisy_audio=noise, time=time, **inputs)

    results, cases = solved(model, batch, noise, lengths)
    return out | results, dict(prompts=prompts, spans=spans, cases=cases)


def decoded(codec, latents, message) -> dict:
    """What the codec makes of latents (B, C, N), with the watermark and without."""
    decoder, hidden = codec.decoder, codec.quantizer.out_proj(latents)
    decoder.wm_model.random_message = lambda n: message[:n]
    out = {"codec.decoded_watermarked": decoder(hidden)[:, 0]}
    for layer in decoder.model:
        hidden = layer(hidden)
    out["codec.decoded_clean"] = decoder.wm_model.encoder_block.forward_no_conv(hidden)[:, 0]
    return out


def solved(model, batch, noise, lengths: list[int]) -> tuple[dict, dict]:
    """Whole separations, and how each of them was made. batch: of a kind of prompt and items."""
    out, everyone = {}, list(range(len(lengths)))
    cases = {  # prompt, items, method, step size, whether to keep the waveforms
        "single": ("span", everyone[-1:], "midpoint", 2 / 32, True),
        "batch.text": ("text", everyone, "midpoint", 2 / 32, True),
        "batch.span": ("span", everyone, "midpoint", 2 / 32, True),
        "euler": ("text", everyone, "euler", 1 / 16, False),
        "uneven": ("text", everyone, "euler", 0.3, False),
        "rk4": ("text", everyone, "rk4", 1 / 4, False),
    }
    codec, decode = model.audio_codec, model.audio_codec.decode
    for case, (prompt, items, method, step, waveforms) in cases.items():
        states = []
        codec.decode = lambda z, states=states: (states.append(z), decode(z))[1]
        inputs = batch(prompt, items)
        frames = int(inputs.sizes.max())
        options = dict(method=method, options=dict(step_size=step))
        result = model.separate(inputs, noise=noise[items, :frames], ode_opt=options)
        state = states[0].reshape(len(items), noise.shape[2], frames)  # (B, 2C, N)
        out[f"state.{case}"] = state.transpose(1, 2)
        for row, item in enumerate(items if waveforms else []):
            out[f"target.{case}.{row}"] = result.target[row][: lengths[item]]
            out[f"residual.{case}.{row}"] = result.residual[row][: lengths[item]]
    codec.decode = decode
    keys = ("prompt", "items", "method", "step_size", "waveforms")
    return out, {name: dict(zip(keys, case, strict=True)) for name, case in cases.items()}


def vision_goldens(model, prompts, lengths, seed: int, device: str) -> tuple[dict, dict]:
    """Frames, masked as the reference masks them, and all that follows from them."""
    from sam_audio import processor

    codec, hop, rate = model.audio_codec, int(model.audio_codec.hop_length), model.sample_rate
    process = processor.SAMAudioProcessor(audio_hop_length=hop, audio_sampling_rate=rate)
    generator = torch.Generator().manual_seed(seed)
    size, out, videos = model.vision_encoder.image_size, {}, []
    for i in range(len(lengths)):  # shrunk, and enlarged
        count, height, width = [(7, 11, 9), (5, 6, 7)][i % 2]
        shape = (count, 3, size * height // 8, size * width // 8)
        frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        mask = torch.zeros(count, 1, *shape[2:], dtype=torch.bool)
        mask[:, :, shape[2] // 4 : shape[2] // 2, i % 3 * shape[3] // 3 :] = True
        (masked,) = process.mask_videos([frames], [mask])
        out[f"input.frames.{i}"], out[f"input.mask.{i}"] = frames, mask[:, 0]
        out[f"masked.{i}"] = masked
        out[f"resized.{i}"] = model.vision_encoder.transform.transforms[0](masked)
        videos.append(masked)

    times = torch.rand(40, generator=generator).cumsum(0) * lengths[0] / rate / 20

    class Decoder:
        """A video of variable frame rate, as torchcodec presents it; frame i holds i."""

        data, pts_seconds = torch.arange(40), times.double()

        def __len__(self):
            return 40

        def get_frames_in_range(self, first, last):
            return self

    processor.VideoDecoder = lambda path, dimension_order: Decoder()
    sizes = [math.ceil(lengths[0] / hop)]
    (out["nearest"],) = processor.load_video(sizes, ["a file"], process.feature_to_wav_idx, rate)
    out["input.times"] = times

    batch = process(
        prompts,
        [torch.tensor(wave)[None] for wave in sounds(lengths, rate, seed)],
        masked_videos=videos,
    ).to(device)
    inputs = model._get_forward_args(batch)
    out["features"] = inputs["masked_video_features"].transpose(1, 2)
    shape = inputs["audio_features"].shape
    out["input.noise"] = noise = torch.randn(shape, generator=generator).to(device)
    out["input.time"] = time = torch.linspace(0.1, 0.8, len(lengths)).to(device)
    out["velocity"] = model(noisy_audio=noise, time=time, **inputs)
    message = torch.randint(0, 2, (2 * len(lengths), 16), generator=generator).float().to(device)
    codec.decoder.wm_model.random_message = lambda n: message[:n]
    out["input.message"] = message
    result = model.separate(
        batch, noise=noise, ode_opt=dict(method="euler", options=dict(step_size=0.125))
    )
    for i, length in enumerate(lengths):
        out[f"target.{i}"] = result.target[i][:length]
        out[f"residual.{i}"] = result.residual[i][:length]
    return out, dict(prompts=prompts, method="euler", steps=8)


def save(path: Path, tensors: dict, meta: dict) -> None:
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    assert all(value.float().isfinite().all() for value in tensors.values())
    save_file(tensors, path, metadata={"golden": json.dumps(meta)})
    for name, value in tensors.items():
        print(f"{name:32s} {tuple(value.shape)!s:20s} std {value.float().std():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", help="a real checkpoint: folder or hub repo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=7, help="of weights and inputs")
    parser.add_argument("--prompt", action="append", help="one for each clip")
    parser.add_argument("--samples", type=int, nargs="+", help="length of each clip")
    parser.add_argument(
        "--sizes", type=json.loads, default={}, help="what differs from TINY, as JSON"
    )
    parser.add_argument(
        "--tolerances",
        type=json.loads,
        default={},
        help="relative L2 errors to allow: of stage, video and waveform, as JSON",
    )
    options = parser.parse_args()
    prompts = options.prompt or PROMPTS
    if options.samples and len(options.samples) != len(prompts):
        parser.error("give a length for each prompt")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.checkpoint:
        from sam_audio import SAMAudio

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        model = SAMAudio.from_pretrained(options.checkpoint).eval().to(options.device)
        longest, shorter = 4 * 48_000, 127_931
    else:
        model = build_tiny(options.out, merged(TINY, options.sizes), options.seed)
        longest, shorter = 36_001, 25_931
    lengths = options.samples or [longest] + [shorter] * (len(prompts) - 1)
    given = (model, prompts, lengths, options.seed, options.device)
    with torch.inference_mode():
        for name, make in (("golden", goldens), ("vision", vision_goldens)):
            tensors, meta = make(*given)
            meta |= {"tolerances": options.tolerances} if options.tolerances else {}
            save(options.out / f"{name}.safetensors", tensors, meta)


if __name__ == "__main__":
    main()
