"""How the code is cut: lines, functions, parameters. `self` is not counted.

python -m benchmarks.code            this project
python -m benchmarks.code FOLDER...  others, as columns of the same table
"""

import ast
from pathlib import Path

import numpy as np

from benchmarks import report

ROOT = Path(__file__).parent.parent
OWN = ["mlx_sam_audio", "convert", "benchmarks", "tests"]
LIMITS = {"lines of a file": 400, "lines of a function": 60, "parameters": 8}
HEADS = ("files", "lines", "code lines", "file median / max", "function p95 / max")
HEADS += ("over 6 parameters",)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text: str) -> int:
    """Without blank lines, comments and docstrings."""
    tree = ast.parse(text)
    said = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(n not in said and bool(x := line.strip()) and x[0] != "#" for n, line in lines)


def parameters(function: Function) -> int:
    given = function.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    names += filter(None, [given.vararg, given.kwarg])
    return len(names) - (names[:1] in (["self"], ["cls"]))


def functions(path: Path) -> list[tuple[str, int, int]]:
    """Name, lines and parameters of each function in a file."""
    return [
        (f"{path}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1, parameters(node))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
    ]


def row(folder: Path) -> list[object]:
    """Of the table."""
    files = [path for path in sorted(folder.rglob("*.py")) if path.read_text().strip()]
    lines = [len(path.read_text().splitlines()) for path in files]
    found = [one for path in files for one in functions(path)]
    sizes = [size for _, size, _ in found]
    wide = [count for _, _, count in found if count > 6]
    cells = [len(files), sum(lines), sum(code_lines(path.read_text()) for path in files)]
    cells += [f"{np.median(lines):.0f} / {max(lines)}"]
    cells += [f"{np.percentile(sizes, 95):.0f} / {max(sizes)}"]
    return [folder.name, *cells, f"{len(wide)} (most: {max(wide, default=6)})"]


def beyond(folder: Path) -> list[str]:
    """What passes the limits."""
    said = []
    for path in sorted(folder.rglob("*.py")):
        if (count := len(path.read_text().splitlines())) > LIMITS["lines of a file"]:
            said.append(f"{path}: {count} lines")
        for name, size, count in functions(path):
            if size > LIMITS["lines of a function"]:
                said.append(f"{name}: {size} lines")
            if count > LIMITS["parameters"]:
                said.append(f"{name}: {count} parameters")
    return said


def main(arguments: list[str]) -> None:
    parser = report.parser(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="of code (default: this project's)")
    options = parser.parse_args(arguments)
    folders = options.folders or [ROOT / name for name in OWN]
    report.head("", *HEADS)
    rows = list(map(row, folders))
    for cells in rows:
        report.line(*cells)
    print(*(line for folder in folders for line in beyond(folder)), sep="\n")
    report.write(options, [dict(zip(("folder", *HEADS), cells, strict=True)) for cells in rows])


if __name__ == "__main__":
    report.run(main)
