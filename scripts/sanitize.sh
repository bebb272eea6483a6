#!/usr/bin/env bash
# The crate's own unsafe code (locked memory, wiping, registers, the environment, the allocator) under AddressSanitizer with
# LeakSanitizer, and under valgrind's memcheck. In each run two faults that are there on purpose must be found first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tests=(crypto::locked:: crypto::wipe:: crypto::registers:: crypto::providers::env_var:: crypto::keyring)
faults=(allocator::controls::a_block_is_read_after_it_was_given_back allocator::controls::a_block_is_lost)
forks=crypto::locked::tests::a_forked_child_has_no_keys_and_another_epoch
# A test reads what cargo sets.
export CARGO_PKG_NAME=anchorhold

if ! command -v valgrind >/dev/null; then
  apt-get install -y valgrind >/dev/null 2>&1 || { apt-get update >/dev/null && apt-get install -y valgrind >/dev/null; }
fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT

# build COMMAND...: sets `programs` to the binaries that `cargo test --no-run` made.
build() {
  if ! "$@" --no-run >"$report" 2>&1; then
    tail -n 30 "$report"
    exit 1
  fi
  mapfile -t programs < <(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$report")
}

# must_find TEXT COMMAND...: the command fails and says so.
must_find() {
  local text=$1
  shift
  if "$@" >"$report" 2>&1 || ! grep -q "$text" "$report"; then
    printf 'the control was not found (%s):\n' "$text"
    tail -n 30 "$report"
    exit 1
  fi
  printf 'control found: %s\n' "$text"
}

# passes COMMAND...: the command succeeds; prints how many tests that were.
passes() {
  if ! "$@" >"$report" 2>&1; then
    tail -n 60 "$report"
    exit 1
  fi
  grep -h '^test result' "$report"
}

printf -- '--- AddressSanitizer and LeakSanitizer\n'
export ASAN_OPTIONS=detect_leaks=1
# For the target only, so that build scripts and macros stay as they are.
RUSTFLAGS=-Zsanitizer=address build cargo +nightly test --target x86_64-unknown-linux-gnu --lib
must_find heap-use-after-free "${programs[0]}" --ignored --exact "${faults[0]}"
must_find 'detected memory leaks' "${programs[0]}" --ignored --exact "${faults[1]}"
passes "${programs[0]}" "${tests[@]}"

printf -- '--- valgrind\n'
build cargo test --lib --test allocator
memcheck=(valgrind --quiet --error-exitcode=9 --child-silent-after-fork=yes)
leaks=(--leak-check=full --errors-for-leak-kinds=definite)
must_find 'Invalid read of size 1' "${memcheck[@]}" "${programs[0]}" --ignored --exact "${faults[0]}"
must_find 'definitely lost' "${memcheck[@]}" "${leaks[@]}" "${programs[0]}" --ignored --exact "${faults[1]}"
passes "${memcheck[@]}" "${leaks[@]}" "${programs[0]}" "${tests[@]}" --skip "$forks"
# The child ends with whatever its parent holds.
passes "${memcheck[@]}" "${programs[0]}" --exact "$forks"
passes "${memcheck[@]}" "${leaks[@]}" "${programs[1]}"
