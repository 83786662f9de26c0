#!/bin/bash
# Write every generated file. Called by `make generate`, and by `make verify` in a copy of the tree.
set -eu
cd "$(dirname "$0")/.."
# The copy's own sources, not those of the editable install.
export PYTHONPATH="$PWD/crds:$PWD/operator:$PWD/workers:$PWD"
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
export PYTHON

sh crds/generate_control.sh
"$PYTHON" -m ecompile_crds.schema crds
# Helm packages only what is below the chart.
mkdir -p charts/ecompile/files
"$PYTHON" -m ecompile_crds.schema charts/ecompile/files
"$PYTHON" docs/generate_reference.py docs/reference
