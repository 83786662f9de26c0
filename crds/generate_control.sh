#!/bin/sh
# Generate the control stream's messages and stubs. Called by `make generate`.
set -eu
cd "$(dirname "$0")"
PATH="$(dirname "$(command -v "${PYTHON:-python3}")"):$PATH" "${PYTHON:-python3}" -m grpc_tools.protoc -I. \
  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. ecompile_crds/control/control.proto
