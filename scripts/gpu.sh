#!/usr/bin/env bash
# Tests and measures on a machine with a GPU, with its own torch and no network, in ten minutes.
#
#   scripts/gpu.sh collect       with network: puts the wheels to carry along into .gpu-wheels
#   scripts/gpu.sh               on the machine: runs everything and writes docs/gpu.md
#   scripts/gpu.sh --quick       the same at a small scale, for a trial; writes .bench/gpu/gpu.md
#
# Without a GPU every step runs on the CPU, which is a trial as well. Exit 0: every step is done.
# 1: one failed or was stopped, and the page has what the others found. 2: nothing was run.
#
# PYTHON is the interpreter that has torch and NumPy; of all else what it lacks is taken from the
# wheels. VERSION (of Python, 3.12) and PLATFORM say for what machine to collect them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=.gpu-wheels
work=.bench/gpu
most_bytes=50000000

collect() {
    local version=${VERSION:-3.12} size
    mkdir -p "$wheels"
    # Wheels of an earlier time may be for another Python.
    rm -f "$wheels"/*.whl
    # The versions that the tests are known to pass with, and older ones of what has grown by MBs.
    grep -oE '"[a-zA-Z_-]+==[0-9.]+"' pyproject.toml | tr -d '"' >"$wheels/versions.txt"
    printf '%s\n' 'pillow<11' 'cryptography<44' 'hypothesis<6.140' 'pytest<8.4' >>"$wheels/versions.txt"
    if ! "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "$version" \
        --implementation cp --platform "${PLATFORM:-manylinux_2_28_x86_64}" \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d "$wheels" -c "$wheels/versions.txt" \
        aiofiles isal tqdm zstandard fastsafetensors runai-model-streamer humanize \
        diffusers accelerate anyio certifi charset-normalizer h11 httpcore2 httpx2 \
        huggingface_hub importlib_metadata markupsafe peft pillow psutil pyyaml regex requests \
        safetensors tokenizers transformers truststore urllib3 zipp \
        pytest pytest-timeout pytest-httpserver attrs cffi cryptography hypothesis idna iniconfig \
        packaging pluggy pycparser sortedcontainers trustme werkzeug; then
        echo "no set of wheels for Python $version: pip says why; VERSION names another Python" >&2
        return 1
    fi
    size=$(cat "$wheels"/*.whl | wc -c)
    if [ "$size" -gt $most_bytes ]; then
        echo "$wheels has $size bytes, which is more than $most_bytes" >&2
        return 1
    fi
    set -- "$wheels"/*.whl
    echo "$wheels: $# wheels for Python $version, $((size / 1000000)) MB."
    echo "Carry the checkout there with this folder in it, and run scripts/gpu.sh with PYTHON set"
    echo "to the Python $version that has torch."
}

case "${1:-}" in
collect)
    collect
    exit
    ;;
--quick) scale=0.02 ;;
"") scale=1 ;;
*)
    sed -n '4,6s/^#  //p' "$0" >&2
    exit 2
    ;;
esac

# The device, empty where torch has none.
if ! device=$("$python" -c 'import torch; torch.cuda.is_available() and print(torch.cuda.get_device_name())'); then
    echo "PYTHON=$python cannot import torch: let PYTHON name an interpreter that can" >&2
    exit 2
fi
if [ -z "$device" ]; then
    echo "No GPU: every step runs on the CPU, as a trial."
    export BENCH_GPU=cpu
fi
# Without a network pip tries for minutes before it gives up; a module is compiled once, not by
# every process.
export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=
rm -rf "$work"
mkdir -p "$work"

# What the machine has stays as it is: its torch was tried with it.
lacking() {
    "$python" - "$wheels" <<'END'
import importlib.metadata, pathlib, sys

for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):
    try:
        importlib.metadata.version(wheel.name.partition("-")[0])
    except importlib.metadata.PackageNotFoundError:
        print(wheel)
END
}
put() {
    "$python" -m pip install -q --no-deps --no-compile --target "$work/site" "$@" >>"$work/pip.txt" 2>&1
}
mapfile -t wheels_lacking < <(lacking)
if [ ${#wheels_lacking[@]} -gt 0 ]; then
    if ! "$python" -m pip --version >"$work/pip.txt" 2>&1; then
        echo "PYTHON=$python has no pip to install the wheels with: $(tail -n 1 "$work/pip.txt")" >&2
        exit 2
    fi
    echo "==> installing ${#wheels_lacking[@]} wheels into $work/site"
    if ! put "${wheels_lacking[@]}"; then
        # One by one: a wheel for another version of Python is left out, not all of them.
        for wheel in "${wheels_lacking[@]}"; do
            put --upgrade "$wheel" || echo "    ${wheel##*/} does not fit $("$python" --version)" >&2
        done
    fi
fi
export PYTHONPATH="$PWD:$PWD/$work/site"
missing=$("$python" - <<'END'
import importlib.util

needed = "numpy pytest pytest_timeout pytest_httpserver hypothesis trustme safetensors diffusers peft transformers tqdm aiofiles isal zstandard"
print(*(name for name in needed.split() if importlib.util.find_spec(name) is None))
END
)
if [ -n "$missing" ]; then
    echo "Not here: $missing. What needs them will fail." >&2
    echo "\`VERSION=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') scripts/gpu.sh collect\` gets them where there is a network." >&2
fi
exec "$python" -m scripts.gpu_steps "$work" --scale "$scale" --spent "$SECONDS" --device "$device"
