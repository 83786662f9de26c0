#!/bin/sh
# Make .venv from hash-locked requirements. Installs the Debian packages this needs, where they are missing.
set -eu
cd "$(dirname "$0")/.."
missing=""
command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
[ -n "${PYTHON:-}" ] || missing="$missing python3"
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
"$PYTHON" -c 'import sysconfig, os; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null || missing="$missing python3-dev"
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: missing:$missing. Install them (on Debian: apt-get install$missing) and run this again." >&2
    exit 1
  fi
  echo "setup: installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  # shellcheck disable=SC2086
  apt-get install -y -q --no-install-recommends $missing ca-certificates >/dev/null
fi
command -v "$PYTHON" >/dev/null || PYTHON=python3
"$PYTHON" -c 'import sys; raise SystemExit(not ((3, 11) <= sys.version_info < (3, 13)))' || {
  echo "setup: Python 3.11 or 3.12 is needed; $("$PYTHON" --version) was found. Set PYTHON=/path/to/python3.11." >&2
  exit 1
}
echo "setup: making .venv with $("$PYTHON" --version)"
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
echo "setup: installing packages (PyTorch among them: several GB the first time)"
.venv/bin/uv pip install -q --python .venv/bin/python --require-hashes -r requirements/dev.txt
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
echo "setup: done; the command line is .venv/bin/ecompile"
