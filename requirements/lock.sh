#!/bin/bash
# Write the hash locks from pyproject.toml. Called by `make lock`. No index addresses are written.
set -eu
cd "$(dirname "$0")/.."
UV_VERSION=0.13.8
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$PWD/.venv/bin/python" -m venv "$tools"
"$tools/bin/pip" install --disable-pip-version-check -q "uv==$UV_VERSION"

lock() {
  "$tools/bin/uv" pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header "$@"
}

lock pyproject.toml --extra dev -o requirements/dev.txt
# The images get subsets of the same versions.
for image in operator serving workers; do
  lock pyproject.toml --extra "$image" -c requirements/dev.txt -o "requirements/$image.txt"
done
lock pyproject.toml --extra workers --extra torch -c requirements/dev.txt -o requirements/torch.txt
printf '%s\n' 'hatchling>=1.27' 'setuptools>=75' 'editables>=0.5' |
  lock - -c requirements/dev.txt -o requirements/build.txt
