#!/usr/bin/env bash
# Everything that `make up` and `make test` need: .venv with our Python packages, and Debian's
# packages where we may install them. Does nothing when all is there; never asks anything.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
# What each one is for: docs/dependencies.md. The last word is the program or file that proves it.
PACKAGES=(
  containerd:/usr/bin/containerd
  runc:/usr/sbin/runc
  busybox-static:/bin/busybox
  wrk:/usr/bin/wrk
  etcd-server:/usr/bin/etcd
  redis-server:/usr/bin/redis-server
)

say() { printf '%s\n' "$*" >&2; }

# How to become root without a password, if at all.
if [ "$(id -u)" = 0 ]; then SUDO=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then SUDO=(sudo -n)
else SUDO=(false)
fi

may_install() { command -v apt-get >/dev/null && [ "${SUDO[*]:-}" != false ]; }

UPDATED=
install() {
  if [ -z "$UPDATED" ]; then
    "${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || true
    UPDATED=1
  fi
  "${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# Of servers only the program is wanted: tests and clusters start their own, or are told of one.
# Debian would start one on its usual port, now and at every boot.
install_servers() {
  local policy=/usr/sbin/policy-rc.d made='' done=0 name
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${SUDO[@]}" tee "$policy" >/dev/null
    "${SUDO[@]}" chmod +x "$policy"
    made=1
  fi
  install "$@" || done=1
  [ -z "$made" ] || "${SUDO[@]}" rm -f "$policy"
  if [ $done = 0 ] && command -v systemctl >/dev/null; then
    for name in "$@"; do
      "${SUDO[@]}" systemctl disable "${name/etcd-server/etcd}" >/dev/null 2>&1 || true
    done
  fi
  return $done
}

# A Python of 3.11 or newer.
find_python() {
  local name
  for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    [ -n "$name" ] && command -v "$name" >/dev/null || continue
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
}

make_venv() {
  local python
  python=$(find_python)
  if [ -z "$python" ] && may_install; then
    say "installing python3"
    install python3 python3-venv || true
    python=$(find_python)
  fi
  if [ -z "$python" ]; then
    say "error: Python 3.11 or newer is needed, and none was found (apt-get install python3)"
    exit 1
  fi
  say "creating $VENV with $("$python" --version)"
  if ! "$python" -m venv "$VENV" >/dev/null 2>&1; then
    # Debian ships the module apart, under the name of the exact version.
    rm -rf "$VENV"
    if may_install; then
      install "$(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv" \
        || install python3-venv || true
    fi
    if ! "$python" -m venv "$VENV"; then
      rm -rf "$VENV"
      say "error: $python cannot make virtual environments (apt-get install python3-venv)"
      exit 1
    fi
  fi
}

python_packages() {
  local stamp wanted
  stamp="$VENV/.installed"
  [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null || { rm -rf "$VENV"; make_venv; }
  # By content, not by time: a checkout of the same files installs nothing. The path, because
  # programs in .venv/bin name their interpreter by it.
  wanted="$(sha256sum pyproject.toml | cut -d' ' -f1) $PWD"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  say "installing Python packages (a minute or two, once)"
  "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --retries 5 -e '.[dev]'
  printf '%s' "$wanted" > "$stamp"
}

debian_packages() {
  local missing=() entry name
  for entry in "${PACKAGES[@]}"; do
    name=${entry%%:*}
    [ -e "${entry#*:}" ] || command -v "${entry##*/}" >/dev/null || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] && return
  # Tried once for each set: a machine without a network should not wait at every `make`.
  local stamp="$VENV/.packages-tried"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "${missing[*]}" ] && return
  if may_install; then
    say "installing Debian packages: ${missing[*]}"
    local programs=() servers=()
    for name in "${missing[@]}"; do
      case $name in *-server) servers+=("$name") ;; *) programs+=("$name") ;; esac
    done
    [ ${#programs[@]} = 0 ] || install "${programs[@]}" \
      || say "  some could not be installed; going on without them"
    [ ${#servers[@]} = 0 ] || install_servers "${servers[@]}" \
      || say "  ${servers[*]} could not be installed; going on without"
    local still=()
    for entry in "${PACKAGES[@]}"; do
      name=${entry%%:*}
      [ -e "${entry#*:}" ] || command -v "${entry##*/}" >/dev/null || still+=("$name")
    done
    missing=("${still[@]}")
  fi
  if [ ${#missing[@]} != 0 ]; then
    say "not installed: ${missing[*]} (as root: apt-get install ${missing[*]})"
    say "  without containerd, runc and busybox-static there are no containers on this machine,"
    say "  without etcd-server and redis-server their tests are skipped; all the rest works"
  fi
  printf '%s' "${missing[*]:-}" > "$stamp"
}

python_packages
debian_packages
