#!/usr/bin/env bash
# Installs the package if needed, then trains an aligned student on generated images (preset `smoke`).
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/environment.sh weights
alignet-ray run smoke "$@"
