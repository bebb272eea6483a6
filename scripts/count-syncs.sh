#!/usr/bin/env bash
# Counts the fdatasync calls of a loop of acknowledged single writes: N more writes must show at least N more calls.
# usage: count-syncs.sh [N]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
writes=${1:-300}

if ! command -v strace >/dev/null; then
  apt-get install -y strace >/dev/null 2>&1 || { apt-get update >/dev/null && apt-get install -y strace >/dev/null; }
fi
cargo build --release --example acknowledged_writes
program=${CARGO_TARGET_DIR:-target}/release/examples/acknowledged_writes
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT

syncs() {
  strace -f -qq -e trace=fdatasync -o "$trace" "$program" "$1" >&2
  grep -cE 'fdatasync\([0-9]+\) *= 0|fdatasync resumed.*= 0' "$trace"
}
# What opening, onboarding and closing cost is in both runs and drops out.
few=$(syncs 10)
many=$(syncs $((10 + writes)))
printf '%s more acknowledged writes, %s more fdatasync calls that succeeded\n' "$writes" $((many - few))
((many - few >= writes))
