#!/usr/bin/env bash
# Gathers the wheels that install.sh installs: this project's, built here, and those of requirements.txt for Debian 12's
# Python 3.11. Run on the machine that builds the image, with the package index that its pip is set up for.
#
#   wheelhouse.sh DIR [amd64|arm64]
#
# PYTHON names the Python to use; it needs pip. Wheels of an earlier run in DIR are replaced.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: wheelhouse.sh DIR [amd64|arm64]" >&2
    exit 2
fi
folder=$1
case ${2:-amd64} in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*)
    echo "wheelhouse: unknown architecture '$2': amd64 or arm64" >&2
    exit 2
    ;;
esac
python=${PYTHON:-python3}

platforms=()
# Oldest last. Debian 12 has glibc 2.36.
for libc in manylinux_2_34 manylinux_2_28 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${libc}_$machine")
done

mkdir -p "$folder"
find "$folder" -maxdepth 1 -name '*.whl' -delete
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: "${platforms[@]}" \
    --implementation cp --python-version 3.11 --dest "$folder" --requirement "$here/requirements.txt"
# Built from a copy: the build leaves its own folders beside the sources.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -C "$here/../.." --exclude='./.*' --exclude=__pycache__ --exclude='*.egg-info' --exclude=./build --exclude=./tests \
    --exclude=./nodeagent/image -cf - . | tar -C "$copy" -xf -
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$folder" "$copy"
echo "wheelhouse: $(find "$folder" -name '*.whl' | wc -l) wheels in $folder" >&2
