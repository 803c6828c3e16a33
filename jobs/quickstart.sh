#!/usr/bin/env bash
# From nothing to an aligned student on a generated world: installs the package if needed, then runs the preset `smoke`.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/environment.sh weights
alignet-ray run smoke "$@"
