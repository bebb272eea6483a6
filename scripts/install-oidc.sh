#!/usr/bin/env bash
# Installs the OpenID server that tests/oidc.rs runs against, to the version and hash of each package in the lock file. No package's
# install script is run. Does nothing when it is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../tests/oidc"
installed=node_modules/.package-lock.json
if [[ ! -e $installed || package-lock.json -nt $installed || package.json -nt $installed ]]; then
  npm ci --ignore-scripts --no-audit --no-fund
fi
