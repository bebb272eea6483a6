#!/usr/bin/env bash
# Text checks that no lint makes. Prints each place that breaks one and exits non-zero.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bad=0
# refuse WHY PATTERN PATHSPEC...: no tracked line may match.
refuse() {
  local why=$1 pattern=$2 found
  shift 2
  if found=$(git grep -nIE "$pattern" -- "$@"); then
    printf '%s:\n%s\n' "$why" "$found"
    bad=1
  fi
}

# What a fuzzer wrote is no source.
sources=(src benches fuzz ':!fuzz/corpus' tests examples docs README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md .ci/run)
refuse 'unfinished' 'todo!|unimplemented!|\b(TODO|FIXME|XXX)\b' "${sources[@]}"
refuse 'printing is for examples, benches and tests; the library logs with tracing' '\b(dbg|e?println|e?print)!\(' src ':!src/bin' ':!*tests.rs' ':!src/storage/sled/soak.rs' ':!src/crypto/scan.rs'
refuse 'an allow needs a reason' '#!?\[allow\([^=]*\)\]' src
refuse 'unsafe code is allowed in five files only' 'allow\(unsafe_code' src ':!src/crypto/locked.rs' ':!src/crypto/environ.rs' ':!src/crypto/registers.rs' ':!src/allocator.rs' ':!src/memory.rs'
refuse 'a path of one machine' '(^|[^a-z])/(root|home|work|Users)/[A-Za-z]' . ':!scripts/gates.sh' ':!fuzz/corpus'
refuse 'a getter is named after what it gets' 'pub (async )?fn get_' src
refuse 'secrets have no Display' 'impl (fmt::)?Display for (ApiKey|SessionToken|RootKey|Credential|Revealed|OAuth2Tokens)\b' src

# Half of all source files under 300 lines, and none that has clearly become two.
lines=$(git ls-files 'src/*.rs' | while read -r file; do printf '%s %s\n' "$(wc -l <"$file")" "$file"; done | sort -n)
median=$(awk '{ n[NR] = $1 } END { print n[int((NR + 1) / 2)] }' <<<"$lines")
if ((median >= 300)); then
  printf 'the median source file has %s lines: split some\n' "$median"
  bad=1
fi
while read -r count file; do
  if ((count > 700)); then
    printf '%s has %s lines: is it still one job?\n' "$file" "$count"
    bad=1
  fi
done <<<"$lines"

# The controls: each pattern must be able to match.
control() {
  if ! grep -qE "$1" <<<"$2"; then
    printf 'gate is blind: %s does not match %s\n' "$1" "$2"
    bad=1
  fi
}
control 'todo!|unimplemented!|\b(TODO|FIXME|XXX)\b' 'let x = todo!();'
control '\b(dbg|e?println|e?print)!\(' '    println!("{x}");'
control '#!?\[allow\([^=]*\)\]' '#[allow(dead_code)]'
control '(^|[^a-z])/(root|home|work|Users)/[A-Za-z]' 'see /home/me/notes'

exit "$bad"
