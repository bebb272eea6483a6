#!/usr/bin/env bash
# OAuth against a certified OpenID server, over real sockets and in real time. Needs Node 20 or newer and npm. The last line that
# begins with "exchanges so far" says how many requests for tokens there were.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/install-oidc.sh
ANCHORHOLD_OIDC=1 cargo test --test oidc "$@" -- --ignored --nocapture
