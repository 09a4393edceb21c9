"""What may import what: the package is built in layers, and nothing looks up."""

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import mlx_sam_audio

ROOT = Path(mlx_sam_audio.__file__).parent
LAYERS = (  # from the ground up: rooms and the modules beside them; those in one line are strangers
    ["errors"],
    ["__init__", "files", "kinds", "models", "ode"],
    ["prompts"],
    ["media", "loading"],
    ["calls"],
    ["ranking"],
    ["settings"],
    ["engine"],
    ["span_predictor"],
    ["model"],
    ["demo"],
    ["command"],
    ["serve"],
    ["doctor", "judge", "playground", "separate", "server"],
    ["__main__"],
)
FILES = {"av", "huggingface_hub", "io", "json", "os", "pathlib", "safetensors", "sentencepiece"}
FILES |= {"shutil", "soundfile", "soxr", "subprocess", "tempfile", "tokenizers"}
BESIDE = {"benchmarks", "convert", "tests", "training"}


def named(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


PATHS = (path for path in ROOT.rglob("*.py") if not path.parent.name.startswith("__"))
MODULES = {named(path): path for path in PATHS}


@functools.cache
def imports(module: str) -> set[str]:
    """What a module imports, in functions too: "models.dit" of ours, "numpy" of others."""
    found, room = set(), module.split(".")[:-1]
    for node in statements(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif not node.level:
            found.add(node.module.partition(".")[0])
        else:
            start = [*room[: len(room) + 1 - node.level], *filter(None, [node.module])]
            for alias in node.names:
                inner = ".".join([*start, alias.name])
                found.add(inner if inner in MODULES else ".".join(start) or "__init__")
    return found


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All but those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from statements(node)


def ours(module: str) -> set[str]:
    return imports(module) & set(MODULES)


def layer(module: str) -> int:
    room = module.partition(".")[0]
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


def test_imports_point_down():
    rooms = {module: module.partition(".")[0] for module in MODULES}
    assert not [
        f"{module} imports {other}"
        for module in MODULES
        for other in ours(module)
        if rooms[module] != rooms[other] and layer(module) <= layer(other)
    ]


def test_there_are_no_circles():
    graphlib.TopologicalSorter({module: ours(module) for module in MODULES}).prepare()


def test_networks_open_no_files():
    networks = [module for module in MODULES if module.startswith("models.")]
    assert not {module: found for module in networks if (found := imports(module) & FILES)}


def test_the_package_stands_alone():
    """But for the converter, which takes in what the hub has in other layouts."""
    beside = {module: found for module in MODULES if (found := imports(module) & BESIDE)}
    assert beside == {"loading.store": {"convert"}}


def test_the_top_of_the_package_is_small():
    top = {module for module in MODULES if "." not in module}
    assert len(top - {"__init__", "__main__"}) <= 14
