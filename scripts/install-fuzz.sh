#!/usr/bin/env bash
# Installs the fuzzing driver at the version the targets were written for. Does nothing when it is there.
set -euo pipefail
version=0.13.2
if ! cargo fuzz --version 2>/dev/null | grep -qF "$version"; then
  cargo install cargo-fuzz --version "$version" --locked
fi
