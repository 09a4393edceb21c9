"""Damaged and forged states of interrupted runs."""

from pathlib import Path
from random import Random

import numpy as np

from mlx_sam_audio.engine.checkpoint import Checkpoint

from . import mutate
from .pool import Different

IDENTITY = {"file": "a" * 64, "model": "b" * 64}
X = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
FORGED = {  # other arrays in place of a state's
    "done": "-1 99 2.5 [1,2] np.nan 'x' None 2**70 True",
    "x": "X[:10] X.T X.astype(int) X.astype(str) X*np.nan 1.0 X[None] None X[:0] X*1j X*2.0",
    "slopes": "X 1.0 [X[:3]] np.nan [X*np.nan] [X.astype(int)] [X]*9 'x' None",
    "identity": "'[1]' 'null' '5' '{' '{}' 5 None ['{}'] b'{}' ''",
}


def draw(rng: Random) -> str:
    key = rng.choice([*FORGED])
    damages = [f.__name__ for f in mutate.MEDIA] * 20 + [*mutate.FILES]
    forged = f"forged {key} {rng.choice(FORGED[key].split())}"
    return rng.choices([f"{rng.choice(damages)} {rng.randrange(10**6)}", forged], [9, 1])[0]


def check(recipe: str) -> None:
    path = Path("state")
    Checkpoint(path, IDENTITY, True).save(3, X, [X, X + 1])
    how, *words = recipe.split()
    if how == "forged":
        arrays = dict(np.load(path))
        arrays[words[0]] = eval(words[1])  # of the table above
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    else:
        mutate.apply(path, how, *words)
    done, x, slopes = Checkpoint(path, IDENTITY, True).load(X)
    fresh = how == "missing" and not done and x is X and not slopes
    if not fresh and not (done == 3 and np.array_equal([x, *slopes], [X, X, X + 1])):
        raise Different(f"{done} evaluations, a state of {np.shape(x)}, {len(slopes)} slopes")
