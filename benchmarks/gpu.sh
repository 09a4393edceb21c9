#!/usr/bin/env bash
# What an NVIDIA GPU tells of this package, in one call and on one page, $OUT/gpu.md.
#
#   benchmarks/gpu.sh                  runs the parts that are not done, the most telling first
#   benchmarks/gpu.sh --again [PART]   forgets them, or one of them, before
#   benchmarks/gpu.sh list             shows the parts
#   benchmarks/gpu.sh wheels [3.12]    with network: fetches the wheels that Python 3.12 needs there
#
# In the environment (what holds if it is not there):
#
#   OUT        of the page, and of what each part wrote and said (gpu)
#   WHEELS     of wheels, or their pieces: X.whl.part* and X.whl.sha256 (wheels)
#   SITE       to which they are installed (a temporary folder)
#   REFERENCE  with the sources of sam-audio and dacvae (the reference is not timed)
#   LIMIT      of seconds, when what runs is stopped and nothing more is begun (570)
#   PARTS      a file of other parts (those below)
#   PYTHON     (python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OUT=${OUT:-gpu} PYTHON=${PYTHON:-python3} REFERENCE=${REFERENCE:-}
WHEELS=${WHEELS:-wheels} LIMIT=${LIMIT:-570} SITE=${SITE:-${TMPDIR:-/tmp}/mlx-cuda-$UID}
WORKERS=$(($(nproc) < 4 ? $(nproc) : 4))
NEEDED="mlx==0.32.4 mlx-cuda-13==0.32.4 soundfile cffi pycparser soxr av" # beside PyTorch's

# name | seconds at most | where | title | command, whose output goes to the page
parts() {
    if [ -n "${PARTS:-}" ]; then
        cat "$PARTS"
        return
    fi
    echo "golden | 200 | any | Golden tests | golden"
    echo "parity | 60 | any | Parity | measure parity"
    echo "parity-tf32 | 60 | gpu | Parity with products in TF32 | MLX_ENABLE_TF32=1 measure parity"
    for dtype in float32 float16 bfloat16; do
        for size in small base large; do
            echo "speed-$size-$dtype | 90 | gpu | Speed: $size in $dtype, 10 s |" \
                "speed --size $size --dtype $dtype"
        done
    done
    echo "speed-exact | 90 | gpu | Speed: large in float32 without TF32, 10 s |" \
        "MLX_ENABLE_TF32=0 speed --size large --dtype float32"
    echo "solvers | 120 | gpu | Solvers | measure solvers"
    echo "memory | 120 | gpu | Memory: small in float16, 10 s and 10 minutes | memory small float16"
}

measure() {
    "$PYTHON" -m "benchmarks.$1" --json "$OUT/gpu.jsonl" "${@:2}"
}

golden() { # that a test fails is a result, too
    local modules
    mapfile -t modules < <(grep -l 'pytest.mark.parity$' tests/test_*.py)
    "$PYTHON" -m pytest -q -m parity -n "$WORKERS" --tb=short -rfE \
        --continue-on-collection-errors "${modules[@]}" 2>&1 | tee /dev/stderr |
        grep -E '^(FAILED|ERROR) | in [0-9.]+s' | cut -c 1-200 || [ "${PIPESTATUS[0]}" = 1 ]
}

speed() {
    local options=(--seconds 10 --repeats 5 --stages text encode evaluation decode whole "$@")
    if [ -n "$REFERENCE" ]; then
        measure speed --against torch --reference "$REFERENCE" "${options[@]}" && return
        printf '\nThe reference broke off. Without it:\n\n'
    fi
    measure speed "${options[@]}"
}

memory() { # of random weights
    local folder status=0
    folder=$(mktemp -d)
    "$PYTHON" -m benchmarks.models "$@" "$folder"
    measure longform memory -m "$folder" --minutes 0.1667 10 || status=$?
    rm -r "$folder"
    return "$status"
}
export WORKERS
export -f measure golden speed memory

wheels() {
    local tag tags=() wheel
    for tag in _2_35 _2_28 _2_27 _2_17 2014; do tags+=(--platform "manylinux${tag}_x86_64"); done
    tags+=(--implementation cp --python-version "$1")
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --no-deps --only-binary=:all: "${tags[@]}" -d "$WHEELS" $NEEDED
    cd "$WHEELS"
    find . -name '*.whl' -size +30M -printf '%f\n' | while read -r wheel; do
        sha256sum "$wheel" >"$wheel.sha256"
        split -d -b 30M "$wheel" "$wheel.part"
        rm "$wheel"
    done
    du -h -- *
}

join() { # all wheels, whole, into a folder
    local sum whole
    for sum in "$WHEELS"/*.whl.sha256; do
        whole=$(basename "${sum%.sha256}")
        cat "$WHEELS/$whole".part* </dev/null >"$1/$whole"
        if ! (cd "$1" && sha256sum --status -c -) <"$sum"; then
            echo "$whole is not what its sha256 says: a piece of it is missing or damaged" >&2
            return 1
        fi
    done
    for whole in "$WHEELS"/*.whl; do cp "$whole" "$1"; done
}

install() { # once; NVIDIA's libraries, which PyTorch brought, are linked to where MLX looks for them
    local folder status=0
    folder=$(mktemp -d)
    shopt -s nullglob
    join "$folder" || status=$?
    if [ "$status" = 0 ] && [ ! -e "$SITE/done" ] && nvidia-smi -L && [ -n "$(ls "$folder")" ]; then
        rm -rf "$SITE"
        "$PYTHON" -m pip install -q --no-index --no-deps --target "$SITE" "$folder"/*.whl &&
            "$PYTHON" - "$SITE" <<'LINK' && touch "$SITE/done" || status=$?
import importlib.util, pathlib, sys
found = importlib.util.find_spec("nvidia")
for path in map(pathlib.Path, found.submodule_search_locations if found else ()):
    if (path / "cu13").exists():
        pathlib.Path(sys.argv[1], "nvidia").symlink_to(path)
        break
LINK
    fi
    rm -r "$folder"
    return "$status"
}

record() { # the machine; all of it in machine.log
    {
        nvidia-smi || true
        nvcc --version || true
        "$PYTHON" -m pip list || true
        [ ! -e "$SITE/mlx/lib/libmlx.so" ] || ldd "$SITE/mlx/lib/libmlx.so"
        free -g && df -h "$OUT"
    } >"$OUT/machine.log" 2>&1
    "$PYTHON" -m benchmarks.machine 2>>"$OUT/machine.log" || printf '| machine | |\n|---|---|\n'
    echo "| GPU | $(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader \
        2>/dev/null || echo "none is found by nvidia-smi") |"
    "$PYTHON" - <<'VERSIONS'
from importlib.metadata import distributions
names = "mlx-cuda-13 torch transformers nvidia-cublas nvidia-cudnn-cu13 nvidia-cuda-runtime".split()
found = {dist.name.lower(): dist.version for dist in distributions()}
print("| packages |", ", ".join(f"{name} {found[name]}" for name in names if name in found), "|")
VERSIONS
}

each() { # calls a function with every part
    local name limit where title command
    while IFS='|' read -r name limit where title command; do
        read -r name limit where <<<"$name $limit $where"
        title=${title# } command=${command# }
        "$1" "$name" "$limit" "$where" "${title% }" "$command"
    done < <(parts)
}

# shellcheck disable=SC2016  # these quotes are Markdown's
shown() { # tables as they are, anything else as it was printed
    if grep -q '^|---' "$1"; then
        cat "$1"
    else
        printf '```\n%s\n```\n' "$(tail -n 40 "$1")"
    fi
}

run() {
    local file=$OUT/$1 limit=$2 left=$((LIMIT - SECONDS)) status=0 begun=$SECONDS
    if head -n 1 "$file.md" 2>/dev/null | grep -q " on ${backend:-.*}\.$"; then
        return # done
    fi
    rm -f "$file".{md,why,out,log}
    if [ -n "$broken" ]; then
        echo "Not run: $broken." >"$file.why"
    elif [ "$3" = gpu ] && [ "$backend" = CPU ]; then
        echo "Not run: it needs a GPU." >"$file.why"
    elif [ "$left" -le 1 ]; then
        echo "Not run: the time was over ($LIMIT s)." >"$file.why"
    else
        [ "$limit" -le "$left" ] || limit=$left
        echo "$4 ..." >&2
        timeout -k 5 "$limit" bash -euo pipefail -c "$5" </dev/null >"$file.out" 2>"$file.log" ||
            status=$?
        case $status in
        0) printf '%s\n\n%s\n' "$((SECONDS - begun)) s on $backend." "$(shown "$file.out")" >"$file.md" ;;
        124 | 137) echo "Stopped after $limit s." >"$file.why" ;;
        *) echo "Failed: $(grep . "$file.log" | tail -n 1 || echo "exit status $status")" >"$file.why" ;;
        esac
        page
    fi
}

# shellcheck disable=SC2016
section() {
    printf '\n## %s\n\n`%s`\n\n' "$4" "$5"
    if [ -e "$OUT/$1.md" ]; then
        cat "$OUT/$1.md"
    else
        cat "$OUT/$1.why" 2>/dev/null || echo "Not run yet."
        [ ! -s "$OUT/$1.out" ] || printf '\n%s\n' "$(shown "$OUT/$1.out")"
    fi
}

page() {
    {
        printf '# On a GPU\n\n'
        [ -n "$broken" ] || [ "$backend" != CPU ] || printf '**Not run on a GPU**: there is none here. '
        [ -n "$broken" ] || printf 'MLX computes on %s.\n\n' "$backend"
        [ -z "$broken" ] || printf '**Not run**: %s.\n\n' "$broken"
        [ -n "$REFERENCE" ] || printf 'The reference is not timed: REFERENCE names no sources.\n\n'
        cat "$OUT/machine.md"
        each section
    } >"$OUT/gpu.md.new"
    mv "$OUT/gpu.md.new" "$OUT/gpu.md"
}

again() {
    # shellcheck disable=SC2086  # all, if none is named
    rm -f "$OUT"/${1:-*}.{md,why,out,log}
}

case ${1:-} in
list) parts && exit ;;
wheels) wheels "${2:-3.12}" && exit ;;
--again) again "${2:-}" ;;
"") ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
broken='' backend=''
install >"$OUT/install.log" 2>&1 || broken=$(tail -n 1 "$OUT/install.log")
export PYTHONPATH=$SITE:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
record >"$OUT/machine.md"
if [ -z "$broken" ]; then
    backend=$("$PYTHON" -c "from benchmarks import machine; print(machine.describe()['backend'])" \
        2>"$OUT/mlx.log") ||
        broken="MLX cannot be used: $(tail -n 1 "$OUT/mlx.log")"
fi
each run
page
echo "$OUT/gpu.md" >&2
[ -z "$broken" ] || { echo "error: $broken" >&2 && exit 1; }
