#!/bin/sh
# Generate the messages and stubs of the control stream and of the inference protocol. Called by `make generate`.
set -eu
cd "$(dirname "$0")"
PATH="$(dirname "$(command -v "${PYTHON:-python3}")"):$PATH" "${PYTHON:-python3}" -m grpc_tools.protoc -I. \
  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. ecompile_crds/control/control.proto
cd ../workers
PATH="$(dirname "$(command -v "${PYTHON:-python3}")"):$PATH" "${PYTHON:-python3}" -m grpc_tools.protoc -I. \
  --python_out=. --mypy_out=. ecompile_workers/serving/oip/inference.proto
