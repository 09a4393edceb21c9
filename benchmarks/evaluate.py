"""How good is a model, a precision, a solver or a setting, on a dataset with or without the truth?

python -m benchmarks.evaluate --prepare demo --out DATASET           makes a dataset
python -m benchmarks.evaluate DATASET --out RUN -m small             separates and scores it
python -m benchmarks.evaluate DATASET --out RUN --score-only --metrics judge
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from tqdm import tqdm

from benchmarks import models, report
from benchmarks.evaluation import estimate, listen, plots, scores, summary
from benchmarks.evaluation.dataset import PROMPTS, Dataset
from benchmarks.evaluation.harness import Ask, Evaluation
from benchmarks.evaluation.identity import helpers, identity, sums
from benchmarks.evaluation.prepare import KINDS, prepare
from benchmarks.evaluation.profiles import PROFILES, deviations, settings_of
from benchmarks.evaluation.runs import FORMAT, Run, Task
from mlx_sam_audio import SAMAudio, SAMAudioError
from mlx_sam_audio.files import existing
from mlx_sam_audio.loading.store import resolve
from mlx_sam_audio.loading.strict_json import no_number
from mlx_sam_audio.models.schema import parse
from mlx_sam_audio.settings import digest


@dataclass(frozen=True)
class Joined:
    """A line of another tool's scores."""

    id: str
    value: float | None
    prompt: str | None = None
    seed: int = 0

    @property
    def key(self) -> Task | str:
        return self.id if self.prompt is None else Task(self.id, self.prompt, self.seed)


def outside(texts: Sequence[str], dataset: Dataset) -> dict[str, dict]:
    """NAME=FILE: by name, values by id, or by id, prompt and seed. Raises SAMAudioError."""
    found, ids = {}, {item.id for item in dataset.items} | {row.id for row in dataset.missing}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file or name in found or name in scores.METRICS:
            raise SAMAudioError(f"--join takes NAME=FILE with a name of its own, not {text!r}")
        path, found[name] = existing(file), {}
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            where = f"{path}, line {number}"
            row = parse(Joined, json_of(line, where), where)
            if row.key in found[name] or row.id not in ids:
                why = "stands there twice" if row.id in ids else f"is no item of {dataset.name}"
                raise SAMAudioError(f"{where}: {row.id!r} {why}")
            found[name][row.key] = row.value
    return found


def json_of(line: bytes, where: str) -> object:
    try:
        return json.loads(line, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise SAMAudioError(f"{where}: {error}") from None


def places(texts: Sequence[str]) -> dict[str, str]:
    """GROUP=FOLDER of networks that score. Raises SAMAudioError."""
    found = dict(text.partition("=")[::2] for text in texts)
    strange = sorted(found.keys() - scores.NETWORKS.keys())
    if strange or not all(found.values()):
        raise SAMAudioError(
            f"--networks takes GROUP=FOLDER of {', '.join(scores.NETWORKS)}, not {texts[0]!r}"
        )
    return found


def evaluate(options) -> int:
    dataset = Dataset.read(Path(options.data[0]))
    settings = settings_of(options.profile, options.settings)
    ask = Ask(tuple(options.setting), tuple(options.prompts), options.limit, options.seeds)
    tasks = ask.tasks(dataset)
    if options.estimate:
        known = {item.id: item.seconds() for item in dataset.items}
        each = [(known[t.id], settings(t.prompt)) for t in tasks if known.get(t.id)]
        if not each:
            raise SAMAudioError(f"no item of {dataset.name} that is asked for has a mixture")
        report.write(options, estimate.show(each, options.round))
        return 0
    if options.out is None:
        raise SAMAudioError("give --out, the folder of the run")
    data = Path(options.data[0]).resolve()
    if data in (options.out.resolve(), *options.out.resolve().parents):
        raise SAMAudioError(f"--out {options.out} lies in the dataset: give another folder")
    if options.score_only and not (options.out / "run.json").exists():
        raise SAMAudioError(f"there is no run in {options.out} that could be scored")
    folder, given = resolve(options.model), places(options.networks)
    joined = outside(options.join, dataset)
    chosen = [group for group in options.metrics if group in scores.NETWORKS]
    networks = {group: resolve(given.get(group, group)) for group in chosen}
    ids, kinds = {task.id for task in tasks}, {task.prompt for task in tasks}
    common = {
        "model": Path(options.model).name,
        "weights rounded to": options.round or "as they are",
        "base seed": options.seed,
        "lower case": options.lower,
        "metric rate": dataset.facts.metric_rate,
        "aggregate": dataset.facts.aggregate,
    }
    meta = {
        "format": FORMAT,
        "identity": identity(folder, settings, **common),
        "profile": options.profile,
        "deviations": deviations(options.profile, settings),
        "dataset": dataset.described(),
        "data": {item.id: item.fingerprint() for item in dataset.items if item.id in ids},
        "helpers": {k: v for kind in kinds for k, v in helpers(settings(kind)).items()},
        "scorers": {group: digest(sums(place)) for group, place in networks.items()},
        "asked": vars(ask),
    }
    run = Run.begin(options.out, meta, options.resume or options.score_only)
    run.write_meta()
    work = Evaluation(dataset, run, tasks, settings, options.seed, options.lower)
    failed = {}
    if not options.score_only:
        failed = work.separate(partial(model_of, options.model, options.round))
    names = scores.named(options.metrics)
    if settings("text").candidates == 1:
        names = [name for name in names if name != "oracle_si_sdri"]
    network = cache(lambda group: scores.loaded(group, networks[group]))
    rows = work.score(names, network, failed, joined)
    told = summary.summary(run)
    text = summary.markdown(told)
    run.write("summary.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    run.write("summary.md", text)
    run.write("listen.html", listen.page(run))
    if options.plots:
        plots.draw(run, run.folder / "plots")
    print(text)
    print(run.took())
    report.write(options, told)
    return int(any(row["status"] == "error" for row in rows))


def model_of(name: str, rounded: str | None) -> SAMAudio:
    model = SAMAudio.from_pretrained(name)
    return models.rounded(model, rounded) if rounded else model


def main(arguments: list[str]) -> int:
    parser = report.parser(__doc__, model="demo", seconds=2.0)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of all noise; with --prepare demo, of its mixtures")
    add("data", nargs="*", metavar="DATASET", help="its folder; with --prepare, the sources")
    add("--out", type=Path, help="the folder that is made")
    add("--prepare", choices=KINDS, help="make a dataset of sources that you have")
    add("--items", type=report.positive, default=96, help="of --prepare demo")
    add("--profile", choices=PROFILES, default="quick", help="of settings")
    said = "other settings than the profile's: steps=8 gate=true"
    add("--with", dest="settings", nargs="+", default=[], metavar="NAME=VALUE", help=said)
    add("--round", choices=models.ROUNDED, help="weights to so few bits, computed in float32")
    add("--lower", action="store_true", help="write descriptions in small letters")
    add("--setting", nargs="+", default=[], help="the (sub)sets of the dataset; all by default")
    add("--prompts", nargs="+", choices=PROMPTS, default=[], help="instead of each (sub)set's own")
    add("--metrics", nargs="+", choices=scores.GROUPS, default=scores.FREE, help="groups of them")
    said = "networks that score, if not in the local store by that name"
    add("--networks", nargs="+", default=[], metavar="GROUP=FOLDER", help=said)
    said = 'scores of another tool: lines {"id": ..., "value": ...}'
    add("--join", nargs="+", default=[], metavar="NAME=FILE", help=said)
    add("--limit", type=report.positive, help="items of each (sub)set")
    add("--seeds", type=report.positive, default=1, help="separations of each, averaged in its row")
    add("--resume", action="store_true", help="go on with a run, or add to it")
    add("--score-only", action="store_true", help="separate nothing: score what a run has")
    add("--plots", action="store_true", help="draw the scores")
    add("--estimate", action="store_true", help="only tell how long the published sizes take")
    options = parser.parse_args(arguments)
    if options.prepare:
        if options.out is None:
            raise SAMAudioError("give --out, the folder of the dataset")
        given = dict(items=options.items, seconds=options.seconds, seed=options.seed)
        given |= dict(settings=options.setting) if options.setting else {}
        bar = partial(tqdm, desc="prepare", unit="item")
        made = prepare(options.prepare, options.data, options.out, bar, **given)
        print(made)
        return 0
    if len(options.data) != 1:
        raise SAMAudioError("give one dataset, a folder that --prepare made")
    return evaluate(options)


if __name__ == "__main__":
    report.run(main)
