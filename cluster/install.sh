#!/usr/bin/env bash
# Set a node up: the token readable for its owner alone, then the project as the README installs it, with the versions
# that were tested together. Arguments are extras of pyproject.toml (`aws`, `gcp`, `s3`, `gcs`). Running it again costs seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CPCNN_HOME="$PWD"
. cluster/environment.sh

test -s "$RAY_AUTH_TOKEN_PATH" || { echo "error: no token in $RAY_AUTH_TOKEN_PATH; see docs/cluster.md" >&2; exit 1; }
chmod 700 "$(dirname "$RAY_AUTH_TOKEN_PATH")"
chmod 600 "$RAY_AUTH_TOKEN_PATH"

# `ray down` and `ray attach` open a shell and expect to find `ray` there.
line=". $(printf %q "$CPCNN_HOME/cluster/environment.sh")"
grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >>~/.bashrc

command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
extras=(--extra cluster)
for extra in "$@"; do extras+=(--extra "$extra"); done
uv sync --quiet --no-dev "${extras[@]}"
