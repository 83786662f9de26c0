#!/bin/bash
# Generate in a copy of the tree and compare, new files included. Called by `make verify`.
set -eu
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/before" "$copy/after"
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' path; do
    if [ -e "$path" ]; then printf '%s\0' "$path"; fi
  done
else
  find . -path ./.venv -prune -o -type f -print0
fi | tar -c --null -T - | tar -x -C "$copy/before"
cp -a "$copy/before/." "$copy/after"
PYTHON="$PWD/.venv/bin/python" bash "$copy/after/requirements/generate.sh" >/dev/null
find "$copy/after" -name __pycache__ -prune -exec rm -rf {} +
if ! (cd "$copy" && diff -ruN before after); then
  echo "verify: generated files are not current: run 'make generate' and commit the result." >&2
  exit 1
fi
echo "verify: generated files are current"
