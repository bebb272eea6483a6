#!/usr/bin/env bash
# Builds every fuzz target and runs each for a while from its committed seeds. usage: fuzz-smoke.sh [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-20}

bash scripts/install-fuzz.sh
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT

cargo +nightly fuzz build
targets=$(cargo +nightly fuzz list)
[[ -n $targets ]] || { echo "no fuzz target found"; exit 1; }
for target in $targets; do
  seeds=fuzz/seeds/$target
  [[ -n $(ls -A "$seeds" 2>/dev/null) ]] || { echo "$seeds has no seeds"; exit 1; }
  mkdir "$found/$target"
  printf -- '--- %s, %s s, %s seeds\n' "$target" "$seconds" "$(ls "$seeds" | wc -l)"
  # New inputs go to the first directory, so that a smoke run leaves the work tree as it was.
  cargo +nightly fuzz run "$target" "$found/$target" "$seeds" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 2>&1 | tail -n 12
done
