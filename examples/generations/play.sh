#!/usr/bin/env bash
# Plays a node and a weightless container on one machine: `./play.sh [FOLDER]`.
#
# The node builds generation 7 from made-up weights. The container, a process in a mount namespace
# of its own where the node's folder is mounted read-only, uses it. Meanwhile the node builds
# generation 8, and can remove generation 7 only when the container has ended.
#
# REQUIREMENT=six adds a Python environment with this package, which uv downloads.
set -euo pipefail

case ${1:-} in
-*)
    echo "usage: $0 [FOLDER]" >&2
    exit 2
    ;;
container) # what kubelet does: the node's folder, mounted read-only
    root=$2 mounted=$3
    mount --bind "$root" "$mounted"
    mount -o remount,bind,ro "$mounted"
    export PGET_GENERATION_ROOT=$mounted PGET_GENERATION=7
    exec pgetpy generation exec -- "$0" model
    ;;
model) # what an image without weights and packages runs
    if touch "$PGET_GENERATION_ROOT/written" 2>/dev/null; then
        echo "the mount can be written to" >&2
        exit 1
    fi
    echo "container: $(cat "$PGET_GENERATION_FILES/weights/model.bin")"
    if [ -n "${PGET_ENV:-}" ]; then
        python3 -c 'import sys; print("container: packages in", sys.path[1])'
    fi
    echo ready >&3
    read -r _ <&4
    echo "container: still $(cat "$PGET_GENERATION_FILES/weights/model.bin")"
    exit
    ;;
esac

# ---------------------------------------------------------------------------- the node
if [ "$(id -u)" = 0 ]; then
    namespace=(unshare --mount)
else
    namespace=(unshare --user --map-root-user --mount)
fi
folder=${1:-$(mktemp -d)}
mkdir -p "$folder/origin" "$folder/mounted"
if ! "${namespace[@]}" mount --bind "$folder/origin" "$folder/mounted" 2>/dev/null; then
    echo "This needs a mount namespace, and the system does not allow that here: run it as root," >&2
    echo "in a container with --privileged, or where user namespaces are allowed." >&2
    exit 77
fi
root=$folder/root
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
export PGET_GENERATION_ROOT=$root

build() { # NUMBER
    echo "weights of generation $1" >"$folder/origin/model-$1.bin"
    {
        echo "generation $1"
        echo "file://$folder/origin/model-$1.bin weights/model.bin"
        if [ -n "${REQUIREMENT:-}" ]; then
            echo "env packages $version $REQUIREMENT"
        fi
    } >"$folder/generation-$1.txt"
    pgetpy generation lock --progress=none "$folder/generation-$1.txt" "$folder/generation-$1.lock"
    pgetpy generation build --progress=none "$folder/generation-$1.lock" | sed 's/^/node: /'
}
prune() { pgetpy generation prune --keep 1 | sed 's/^/node: /'; }

build 7
if [ -n "${REQUIREMENT:-}" ]; then
    export PGET_ENV=packages
fi
mkfifo "$folder/started" "$folder/end"
"${namespace[@]}" "$(realpath "$0")" container "$root" "$folder/mounted" 3>"$folder/started" 4<>"$folder/end" &
container=$!
trap 'kill "$container" 2>/dev/null || true' EXIT
read -r _ <"$folder/started"

build 8
prune
echo end >"$folder/end"
wait "$container"
prune
