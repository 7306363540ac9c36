#!/bin/bash
# Pants 2.17.1 runs under Python 3.9 and builds for 3.11. `pants.sh check` proves that the build graph is sound and that
# one component builds alone; any other arguments go to pants. The pex tool is built from the package index, so that nothing else is
# downloaded. Without Python 3.9, pip packages what pants would.
set -euo pipefail
cd "$(dirname "$0")/../.."
tool=build/pants
python39=""
for candidate in python3.9 "$HOME"/.pyenv/versions/3.9.*/bin/python3.9; do
  command -v "$candidate" >/dev/null && "$candidate" -c 'import ensurepip' 2>/dev/null && { python39=$candidate; break; }
done
if [ -z "$python39" ]; then
  echo "pants: skipped: Pants 2.17 needs Python 3.9, which this machine lacks (install it, for example with pyenv)"
  if [ "${1:-}" = package ]; then
    echo "pip builds the wheels instead"
    .venv/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist ./native ./libcalico ./components/*
    rm -rf libcalico/build components/*/build  # what setuptools leaves would get into the next wheels
  fi
  exit 0
fi
mkdir -p "$tool"
if [ ! -x "$tool/bin/pants" ]; then
  "$python39" -m venv "$tool"
  "$tool/bin/pip" install -q --disable-pip-version-check pantsbuild.pants==2.17.1 'setuptools<81'
fi
if [ ! -x build/pex ]; then
  "$tool/bin/pip" install -q --disable-pip-version-check pex==2.1.137
  "$tool/bin/pex" pex==2.1.137 -c pex -o build/pex
fi
export PANTS_PEX_CLI_URL_TEMPLATE="file://$PWD/build/pex"
PANTS_PEX_CLI_KNOWN_VERSIONS="['v2.1.137|linux_x86_64|$(sha256sum build/pex | cut -d' ' -f1)|$(stat -c %s build/pex)']"
export PANTS_PEX_CLI_KNOWN_VERSIONS
pants() { "$tool/bin/pants" --no-pantsd "$@"; }
if [ "${1:-}" = check ]; then
  pants list :: >/dev/null
  pants package components/felix::
  echo "pants: the build graph is sound, components/felix builds alone"
else
  pants "$@"
fi
