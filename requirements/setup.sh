#!/bin/bash
# Make .venv: hash-locked packages, then this project, editable. Called by `make setup`.
# pip installs, so that a mirror, proxy or certificate configured for pip is used. uv only writes the locks.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }

# Debian's own Python first: images and the development cluster's pods have the same one.
find_python() {
  for candidate in "${PYTHON:-}" /usr/bin/python3.11 python3.11 python3.12; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

missing=()
find_python >/dev/null || missing+=(python3-venv)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if ! python=$(find_python) || [ "$python" = /usr/bin/python3.11 ]; then
  compgen -G '/usr/include/python3.1[12]/Python.h' >/dev/null || missing+=(python3-dev)
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "missing: ${missing[*]}. Install these packages (names as in Debian 12), or run this once as root on Debian." >&2
    exit 1
  fi
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 update -q
  apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}"
fi
if ! python=$(find_python); then
  say "no Python 3.11 or 3.12 with venv was found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi

if ! .venv/bin/python -c '' 2>/dev/null; then
  say "making .venv with $("$python" --version) ($python)"
  rm -rf .venv
  "$python" -m venv .venv
fi
say "installing packages locked in requirements/dev.txt (first time: several GB, a few minutes)"
.venv/bin/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements/dev.txt
say "installing this project, editable"
.venv/bin/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
touch .venv/.ready
say "done: .venv/bin/ecompile is the command line"
