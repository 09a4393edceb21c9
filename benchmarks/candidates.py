"""Do rankers find the best candidate, and does the gate find what is absent?

python -m benchmarks.candidates
"""

import numpy as np

from benchmarks import quality, report
from mlx_sam_audio import SAMAudio, Settings
from mlx_sam_audio.ranking import rank
from mlx_sam_audio.ranking.metrics import si_sdr

COUNTS = (1, 2, 4, 8)
WEIGHT_FREE = ("consensus", "consistency")


def curves(model: SAMAudio, items: list[quality.Item], solver: dict) -> dict[str, list[float]]:
    """Mean SI-SDR improvement of the candidate that each ranker names among the first k."""
    gains = {name: [] for name in (*WEIGHT_FREE, "oracle")}
    for item in items:
        result = model.separate(item.mixture, item.phrase, candidates=max(COUNTS), **solver)
        targets, residuals = (
            np.stack([np.array(getattr(c, stem)) for c in result.candidates])
            for stem in ("target", "residual")
        )
        before = si_sdr(item.mixture, item.target)
        truth = np.array([si_sdr(target, item.target) - before for target in targets])
        known = dict(sample_rate=model.sample_rate, description=item.phrase, spans=())
        for name in WEIGHT_FREE:
            rank_by, row = rank.ranker(name), []
            for count in COUNTS:
                sounds = targets[:count], residuals[:count], item.mixture
                row.append(truth[int(np.argmax(rank_by(*sounds, **known)["score"]))])
            gains[name].append(row)
        gains["oracle"].append([truth[:count].max() for count in COUNTS])
    return {name: np.mean(rows, axis=0).tolist() for name, rows in gains.items()}


def gate(model: SAMAudio, items: list[quality.Item], solver: dict) -> dict[str, float]:
    """Share of the seconds that are judged absent, for present and for absent sounds."""
    shares = {"present": [], "absent": []}
    for item in items:
        for name, phrase in (("present", item.phrase), ("absent", item.absent)):
            found = model.separate(item.mixture, phrase, **solver).presence
            shares[name] += [row.absent for row in found]
    return {name: float(np.mean(share)) for name, share in shares.items()}


def main(arguments: list[str]) -> None:
    parser = report.parser(
        __doc__, model="demo", mixtures=24, seed=0, seconds=2.0, method="ab3", steps=8
    )
    options = parser.parse_args(arguments)
    solver = dict(method=options.method, steps=options.steps)
    model = SAMAudio.from_pretrained(options.model)
    items = quality.items(options.mixtures, options.seed, options.seconds, model.sample_rate)
    found, shares = curves(model, items, solver), gate(model, items, solver)
    report.head("best of", *map(str, COUNTS))
    for name, row in found.items():
        report.line(name, *(f"{gain:.1f} dB" for gain in row))
    print(
        f"\nat {Settings.absent:g} dB the gate silences {shares['absent']:.0%} of the seconds of "
        f"absent sounds and {shares['present']:.0%} of those of present ones"
    )
    report.write(options, {"curves": found, "gate": shares})


if __name__ == "__main__":
    report.run(main)
