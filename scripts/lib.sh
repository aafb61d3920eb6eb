# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts here: where the checkout is, a title for each stage, and the virtual environment .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

title() {
  printf '\n== %s\n' "$*"
}

# .venv, and in it what the named dependency groups of pyproject.toml ask for.
venv() {
  local python=${HOSTREACH_PYTHON:-/usr/bin/python3} group groups=()
  for group in "$@"; do groups+=(--group "$group"); done
  .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
  .venv/bin/pip install -qq 'pip>=25.1' # the first that knows dependency groups
  .venv/bin/pip install -qq "${groups[@]}"
}

# What the wheel will need, so that what only reads the sources need not wait for it.
dependencies() {
  local needed
  needed=$(.venv/bin/python -c '
from pip._vendor import tomli
with open("pyproject.toml", "rb") as file:
    print(*tomli.load(file)["project"]["dependencies"], sep="\n")')
  mapfile -t needed <<<"$needed"
  .venv/bin/pip install -qq "${needed[@]}"
}

# Build the wheel into dist/. The build folder is kept, so a second build is quick.
build_wheel() {
  rm -rf dist
  .venv/bin/pip wheel -qq --no-build-isolation --no-deps --wheel-dir dist .
}

# Build it and install it into .venv.
install_wheel() {
  build_wheel
  put_wheel
}

# Install what was built.
put_wheel() {
  .venv/bin/pip install -qq dist/hostreach-*.whl
  .venv/bin/pip install -qq --no-deps --force-reinstall dist/hostreach-*.whl # also when the version stayed the same
}
