#!/usr/bin/env bash
# Tests and measures on a machine with a GPU, with its own torch and no network, in ten minutes.
#
#   scripts/gpu.sh collect       with network: puts the wheels to carry along into .gpu-wheels
#   scripts/gpu.sh               on the machine: runs everything and writes docs/gpu.md
#   scripts/gpu.sh --quick       the same at a small scale; without a GPU on the CPU, for a trial
#
# PYTHON is the interpreter that has torch and NumPy; of all else what it lacks is taken from the
# wheels. PLATFORM and VERSION say for what machine to collect them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=.gpu-wheels
work=.bench/gpu

collect() {
    mkdir -p "$wheels"
    # The versions that the tests are known to pass with, and older ones of what has grown by MBs.
    grep -oE '"[a-zA-Z_-]+==[0-9.]+"' pyproject.toml | tr -d '"' >"$wheels/versions.txt"
    printf '%s\n' 'pillow<11' 'cryptography<44' 'hypothesis<6.140' >>"$wheels/versions.txt"
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "${VERSION:-3.12}" \
        --implementation cp --platform "${PLATFORM:-manylinux_2_28_x86_64}" \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d "$wheels" -c "$wheels/versions.txt" \
        aiofiles isal tqdm zstandard fastsafetensors runai-model-streamer humanize \
        diffusers accelerate anyio certifi charset-normalizer h11 httpcore2 httpx2 \
        huggingface_hub importlib_metadata markupsafe peft pillow psutil pyyaml regex requests \
        safetensors tokenizers transformers truststore urllib3 zipp \
        pytest pytest-timeout pytest-httpserver attrs cffi cryptography hypothesis idna iniconfig \
        packaging pluggy pycparser pygments sortedcontainers trustme werkzeug
    if [ "$(du -sm "$wheels" | cut -f1)" -gt 50 ]; then
        echo "$wheels is larger than 50 MB" >&2
        return 1
    fi
}

if [ "${1:-}" = collect ]; then
    collect
    exit
fi

scale=1 minutes=2.5 rounds=3
if [ "${1:-}" = --quick ]; then
    scale=0.02 minutes=0.5 rounds=1
fi
if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "$python has no torch; PYTHON names an interpreter that has it" >&2
    exit 2
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no GPU: every step runs on the CPU" >&2
    export BENCH_GPU=cpu
fi
# Without a network pip tries for minutes before it gives up.
export PIP_NO_INDEX=1
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
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$@" 2>/dev/null
}
mapfile -t wheels_lacking < <(lacking)
if [ ${#wheels_lacking[@]} -gt 0 ] && ! put "${wheels_lacking[@]}"; then
    # One by one: a wheel for another version of Python is left out, not all of them.
    for wheel in "${wheels_lacking[@]}"; do
        put --upgrade "$wheel" || echo "${wheel##*/} does not fit this Python" >&2
    done
fi
export PYTHONPATH="$PWD:$PWD/$work/site"

# What fails is said in the page; the steps after it still run. All limits together are less than
# ten minutes.
step() {
    local name=$1 limit=$2
    shift 2
    echo "==> $name"
    if timeout "$limit" "$@" >"$work/$name.txt" 2>&1; then
        echo done >"$work/$name.state"
    else
        echo "failed (exit $?)" >"$work/$name.state"
    fi
    tail -n 3 "$work/$name.txt"
}

step tests 80 "$python" -m pytest -q -p no:cacheprovider -m predictors \
    tests/predictors/test_tensors.py tests/predictors/test_staging.py tests/predictors/test_lora.py
step bench 330 "$python" -m scripts.bench --scale "$scale" --minutes "$minutes" --rounds "$rounds" \
    --fewest 1 gpu gpu-small gpu-lora
step compile 60 "$python" -m scripts.gpu_compile
step network 100 "$python" -m scripts.gpu_network --scale "$scale"
"$python" -m scripts.gpu_page "$work"
