#!/bin/sh
# Build dist/kubectl-ecompile-linux-amd64.tar.gz and the krew manifest that names it: `make krew`.
# KREW_URI: where the archive will be downloaded from. KREW_HOMEPAGE: the project's page. Both are yours to name.
# The archive holds a launcher and the plugin's Python packages, pinned by hash as in the operator's image.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3.11}
dist=$root/dist
archive=kubectl-ecompile-linux-amd64.tar.gz
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
uri=${KREW_URI:-}
homepage=${KREW_HOMEPAGE:-}
for address in "KREW_URI=$uri" "KREW_HOMEPAGE=$homepage"; do
  case $address in
    *=https://?*[!a-zA-Z0-9._~:/?%=+@,-]*) ;;
    *=https://?*) continue ;;
  esac
  echo "krew: ${address%%=*} must be an https:// address: the manifest tells people where to download $archive" \
    "(KREW_URI) and to read about it (KREW_HOMEPAGE). For a manifest that is only installed with --archive, any" \
    "https:// address of yours will do." >&2
  exit 2
done

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
"$python" -m pip install -q --require-hashes --only-binary=:all: --target "$stage/lib" \
  --python-version 3.11 --implementation cp --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
  -r "$root/requirements/operator.txt"
for package in crds/ecompile_crds operator/ecompile_operator operator/ecompile_kubectl; do
  cp -R "$root/$package" "$stage/lib/"
done
find "$stage/lib" -name __pycache__ -type d -prune -exec rm -rf {} +
cp "$root/operator/krew/kubectl-ecompile" "$root/LICENSE" "$stage/"
mkdir -p "$dist"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$stage" -c . | gzip -n > "$dist/$archive"
digest=$(sha256sum "$dist/$archive" | cut -d' ' -f1)
sed -e "s|@VERSION@|$version|; s|@URI@|$uri|; s|@HOMEPAGE@|$homepage|; s|@SHA256@|$digest|" "$root/operator/krew/ecompile.yaml.in" \
  > "$dist/ecompile.yaml"
echo "$dist/$archive"
echo "$dist/ecompile.yaml"
