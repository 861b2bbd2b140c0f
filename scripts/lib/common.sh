# Sourced by the other scripts: where things are, how to say that something is wrong, and how a process is
# started and ended without ever touching one that is not ours.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

# Debian keeps the servers in /usr/sbin, which an ordinary user's PATH lacks; rustup installs to the home
# directory, which a non-login shell's PATH lacks.
PATH=${HOME:-/root}/.cargo/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

need() {
  local tool
  for tool in "$@"; do
    have "$tool" || die "$tool is missing; scripts/setup installs everything that is needed"
  done
}

# The node and the load tester as they are released. Two builds, each like the one that a person asks for: built
# together they would share the features of their dependencies, and the next `cargo run` would compile them anew.
build_release() {
  cargo build --locked --release -p roomcast-gateway
  cargo build --locked --release -p roomcast-loadtest
}

# The moment a process started, in clock ticks since boot. With the pid it names one process for good: a pid
# alone may belong to a stranger by the time it is used. Empty for a process that has ended.
started_at() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The command's name stands in brackets and may itself hold spaces and brackets.
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  # A zombie has ended, although its entry stays until it is waited for.
  [ "$1" = Z ] || printf '%s' "${20}"
}

is_running() { [ -n "$2" ] && [ "$(started_at "$1")" = "$2" ]; }

# Ends the process that has this pid *and* this start time: TERM, then KILL after the grace in seconds.
end_process() {
  local pid=$1 started=$2 tenths=$(($3 * 10))
  is_running "$pid" "$started" || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  while [ "$tenths" -gt 0 ]; do
    is_running "$pid" "$started" || return 0
    sleep 0.1
    tenths=$((tenths - 1))
  done
  kill -KILL "$pid" 2>/dev/null || true
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints so many distinct free ports, one a line. They lie below the range from which the kernel takes the
# ports of outgoing connections, so that a test's clients don't take one before its server binds.
free_ports() {
  local wanted=$1 port taken=" "
  while [ "$wanted" -gt 0 ]; do
    port=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
    case $taken in *" $port "*) continue ;; esac
    port_is_free "$port" || continue
    taken="$taken$port "
    wanted=$((wanted - 1))
    say "$port"
  done
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# Waits until a URL answers with the status (or, with `!503`, with any other one) for at most so many seconds.
wait_for_status() {
  local url=$1 wanted=$2 tries=$(($3 * 10)) status
  while [ "$tries" -gt 0 ]; do
    status=$(curl -s -o /dev/null -m 2 -w '%{http_code}' "$url" || true)
    case $wanted in
      !*) [ "$status" != 000 ] && [ "$status" != "${wanted#!}" ] && return 0 ;;
      *) [ "$status" = "$wanted" ] && return 0 ;;
    esac
    sleep 0.1
    tries=$((tries - 1))
  done
  return 1
}
