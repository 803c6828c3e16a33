#!/usr/bin/env bash
# Slurm:   sbatch --nodes 2 cluster/slurm.sh smoke --store.root /shared/runs
# One Ray node per Slurm node, for this job alone. Arguments after the script's name go to jobs/pipeline.py. Needs a Python environment
# with the package on PATH (or ALIGNET_ENV=/path/to/venv), and a checkout and --store.root on storage that all nodes see.
# Before the time limit Slurm sends SIGTERM: the run stops, is queued again, and continues from its finished parts.
#SBATCH --job-name=alignet
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
if [ -n "${ALIGNET_ENV:-}" ]; then source "$ALIGNET_ENV/bin/activate"; fi

port="${ALIGNET_RAY_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$(getent ahostsv4 "$head" | awk '{print $1; exit}')"
cpus="${SLURM_CPUS_ON_NODE:-$(nproc)}"
gpus="${SLURM_GPUS_ON_NODE:-0}"

# A token for this job alone: only its owner can read the file, and it is never on a command line.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="${SLURM_SUBMIT_DIR:-$PWD}/.ray-token-$SLURM_JOB_ID"
(umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

steps=()
cleanup() {
  for step in "${steps[@]}"; do kill "$step" 2>/dev/null || true; done
  wait "${steps[@]}" 2>/dev/null || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap cleanup EXIT

common=(--block --num-cpus "$cpus" --num-gpus "$gpus" --disable-usage-stats)
srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --overlap --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 "${common[@]}" &
steps+=("$!")
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" --cpus-per-task="$cpus" --overlap --exclude="$head" \
    bash -c 'until ray health-check --address "$0"; do sleep 2; done; exec ray start --address "$0" "$@"' "$address:$port" "${common[@]}" &
  steps+=("$!")
fi
until ray health-check --address "$address:$port" >/dev/null 2>&1; do
  kill -0 "${steps[0]}" 2>/dev/null || { echo "Ray's head did not start on $head" >&2; exit 1; }
  sleep 2
done

# The driver runs on the head and waits for all CPUs and GPUs of the job.
srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --overlap --nodelist="$head" \
  python jobs/pipeline.py "$@" --ray.address "$address:$port" \
  --ray.cpus $((cpus * SLURM_JOB_NUM_NODES)) --ray.gpus $((gpus * SLURM_JOB_NUM_NODES)) &
run="$!"
stopped=""
trap 'stopped=yes; kill -TERM "$run" 2>/dev/null || true' TERM
code=0
wait "$run" || code="$?"
if [ -n "$stopped" ]; then
  wait "$run" || code="$?"
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
