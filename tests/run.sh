#!/usr/bin/env bash
# Everything that is checked: ruff, mypy, pytest. Makes .venv when no environment is active; a second call installs nothing.
#   bash tests/run.sh          the default tests
#   bash tests/run.sh --all    the slow ones as well (hours of faults and long runs)
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/environment.sh test

ruff check .
ruff format --check .
mypy alignet_ray jobs
# Two test processes divide the default tests by file. Slow ones stop processes and fill disks, so they run alone.
if [ "${1:-}" = "--all" ]; then
  shift
  python -m pytest "$@"
else
  # One thread each: threads of two processes that wait for each other on the same cores cost several times the work.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  python -m pytest -m "not slow" -n "${TEST_PROCESSES:-2}" --dist loadscope --no-loadscope-reorder "$@"
fi
