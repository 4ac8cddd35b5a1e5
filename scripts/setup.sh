# shellcheck shell=bash
# Sourced by the other scripts. From the project's root, `setup EXTRAS` makes .venv where it is missing and installs
# the project with these extras (comma-separated, or none), unless that was done before for this pyproject.toml.

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Go to the project's root; a path in the environment stays one of the folder that the script was called from.
enter_project() {
  local name
  for name in FMNIST_XP_DATA FMNIST_XP_CACHE; do
    case ${!name:-} in
      "" | auto | synthetic | /* | "~"*) ;;
      *) export "$name=$PWD/${!name}" ;;
    esac
  done
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
}

find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# The extra that fits the NVIDIA driver, or nothing where no driver answers.
cuda_extra() {
  local version
  version=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9]*\)\..*/\1/p' | head -n 1) || true
  if [ "${version:-0}" -lt 12 ]; then return; fi # CuPy 14 is for CUDA 12 and 13
  if [ "$version" -ge 13 ]; then echo cuda13; else echo cuda; fi
}

setup() {
  local python target stamp
  if [ ! -x .venv/bin/pip ]; then # a Python alone is what is left of one that could not be made
    python=$(find_python) || fail "needs Python 3.11 or newer, found $(python3 --version 2>&1 || echo none): install it"
    echo "making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv || fail "cannot make .venv: on Debian and Ubuntu, apt install python3-venv"
  fi
  target=".${1:+[$1]}"
  stamp=".venv/installed-${1:-base}"
  if [ ! -f "$stamp" ] || [ "$(<pyproject.toml)" != "$(<"$stamp")" ]; then
    echo "installing $target into .venv (the first time this takes a minute or so)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$target" \
      || fail "installing $target failed: is a package index within reach?"
    cp pyproject.toml "$stamp"
  fi
}
