"""Damaged and forged states of interrupted runs."""

import io
from pathlib import Path
from random import Random

import numpy as np

from mlx_sam_audio.checkpoint import Checkpoint

from . import mutate
from .pool import Different

IDENTITY = {"file": "a" * 64, "model": "b" * 64}
X = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
FORGED = {  # other arrays in place of a state's
    "done": ["-1", "99", "2.5", "[1, 2]", "np.nan", "'x'", "None", "2**70", "True"],
    "x": ["X[:10]", "X.T", "X.astype(int)", "X.astype(str)", "X * np.nan", "1.0", "X[None]", "None",
          "X[:0]", "X.astype(complex)", "X.astype(np.float64)"],
    "slopes": ["X", "1.0", "[X[:3]]", "np.nan", "[X * np.nan]", "[X.astype(int)]", "[X] * 9"],
    "identity": ["'[1]'", "'null'", "'5'", "'{'", "'{}'", "5", "None", "['{}']", "b'{}'", "''"],
}  # fmt: skip


def state() -> bytes:
    Checkpoint("state", IDENTITY, True).save(3, X, [X + 1, X + 2])
    return Path("state").read_bytes()


def draw(rng: Random) -> str:
    if rng.random() < 0.1:
        key = rng.choice([*FORGED])
        return f"{key} = {rng.choice(FORGED[key])}"
    mutation = rng.choice([*mutate.ANY, mutate.number]).__name__
    return f"{rng.choice([mutation] * 30 + [*mutate.FILES])} {rng.randrange(10**6)}"


def check(recipe: str) -> None:
    if recipe == "warm":
        return
    if " = " in recipe:
        key, value = recipe.split(" = ")
        arrays = dict(np.load(io.BytesIO(state())))
        arrays[key] = eval(value)  # of the table above
        np.savez(open("state", "wb"), **arrays)
    else:
        state()
        mutate.apply(Path("state"), *recipe.split())
    if not Path("state").exists():
        return
    done, x, slopes = Checkpoint("state", IDENTITY, True).load(X)
    slopes = list(slopes)
    right = done == 3 and np.array_equal(x, X) and len(slopes) == 2
    if not right or not all(np.array_equal(slopes[i], X + (1 + i)) for i in range(2)):
        raise Different(f"{done} evaluations, a state of {np.shape(x)}, {len(slopes)} slopes")
