#!/usr/bin/env bash
# Keeps one program of a machine running: `keep.sh NAME COMMAND...` returns at once, and starts the
# command again whenever it ends, a second apart. `keep.sh NAME stop` ends both. Output goes to
# ~/arktos-NAME.log. For machines without a service manager of yours; a systemd unit does as well.
set -euo pipefail
name=$1
shift
pid_file=$HOME/.arktos-$name.pid

if [ -f "$pid_file" ]; then
  # The whole session: the loop, and what it runs.
  pkill -TERM -s "$(cat "$pid_file")" || true
  rm -f "$pid_file"
fi
[ "$1" = stop ] && exit 0

# shellcheck disable=SC2016 - the inner shell expands these
setsid nohup bash -c 'echo $$ > "$1"; shift; while :; do "$@" || true; sleep 1; done' \
  keep "$pid_file" "$@" >> "$HOME/arktos-$name.log" 2>&1 < /dev/null &
