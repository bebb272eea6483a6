#!/usr/bin/env bash
# Builds every fuzz target and runs each for a while from what is committed: seeds by name, and the corpus of earlier runs.
# usage: fuzz-smoke.sh [SECONDS]
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
  from=()
  for inputs in "fuzz/seeds/$target" "fuzz/corpus/$target"; do
    [[ -n $(ls -A "$inputs" 2>/dev/null) ]] || { echo "$inputs is empty"; exit 1; }
    from+=("$inputs")
  done
  mkdir "$found/$target"
  printf -- '--- %s, %s s, %s inputs\n' "$target" "$seconds" "$(find "${from[@]}" -type f | wc -l)"
  # New inputs go to the first directory, so that a smoke run leaves the work tree as it was.
  cargo +nightly fuzz run "$target" "$found/$target" "${from[@]}" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 2>&1 | tail -n 12
done
