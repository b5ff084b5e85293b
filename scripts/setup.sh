#!/usr/bin/env bash
# Makes the virtual environment given as the first argument, with the package and the extra that the
# second one names in it. Called by make; PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
venv=$1 extra=$2

# What is at this name is deleted below. A setup that was cut off may have left an empty folder.
if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && ! rmdir "$venv" 2>/dev/null; then
    echo "$venv is not a virtual environment, so it is not replaced: move it away, or set VENV" >&2
    exit 1
fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
has_pip() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || { echo "PYTHON=$PYTHON is no Python 3.10 to 3.13" >&2; exit 1; }
    candidates=("$PYTHON")
else
    # The system's own python3 first: its packages fit it. pyenv's shims refuse a version that is
    # not chosen; the interpreters behind them do not.
    candidates=(python3 python3.12 python3.13 python3.11 python3.10
                "${HOME:-}"/.pyenv/versions/3.1[0-3].*/bin/python)
fi

chosen= bare=
for candidate in "${candidates[@]}"; do
    fits "$candidate" || continue
    if has_pip "$candidate"; then
        chosen=$candidate
        break
    fi
    bare=${bare:-$candidate}
done

rm -rf "$venv"
if [ -n "$chosen" ]; then
    echo "==> $venv with $("$chosen" --version)"
    "$chosen" -m venv "$venv"
elif command -v uv >/dev/null; then
    echo "==> $venv with uv"
    uv venv --quiet --seed --python '>=3.10,<3.14' "$venv"
elif [ -n "$bare" ] && "$bare" -m virtualenv --version >/dev/null 2>&1; then
    echo "==> $venv with virtualenv and $("$bare" --version)"
    "$bare" -m virtualenv --quiet "$venv"
elif [ -n "$bare" ]; then
    version=$("$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "Python $version is here, but not what makes virtual environments. Install it:" >&2
    echo "    sudo apt-get install python$version-venv        (Debian, Ubuntu)" >&2
    exit 1
else
    echo "No Python 3.10 to 3.13 found. Install one, or name it:" >&2
    echo "    sudo apt-get install python3 python3-venv       (Debian 12, Ubuntu 22.04 and 24.04)" >&2
    echo "    make setup PYTHON=/path/to/python3.12" >&2
    exit 1
fi

echo "==> installing the package and its tools ($extra), which takes a minute or more"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
