#!/usr/bin/env bash
# Slurm: a sweep on the nodes of one allocation. Where its time runs out it queues itself again, and the sweep resumes.
#
#   sbatch --nodes=4 cluster/slurm.sh search_spaces/digits.py --results /shared/results --trials 200
#
# Submit it in the repository's folder, on storage that all nodes see, after `uv sync --extra cluster` there.
# The nodes need NVIDIA's driver 580 or newer, for torch's wheels are built for CUDA 13.
# CHANGE what your site wants here: a partition, an account, the kind of GPU.
#SBATCH --job-name=cpcnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
export CPCNN_HOME="$PWD"
. cluster/environment.sh

# A token for this job alone, in the home folder that all nodes share, readable for its owner alone.
RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token-$SLURM_JOB_ID"
export RAY_AUTH_TOKEN_PATH
(umask 077 && mkdir -p "$HOME/.ray" && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# awk reads to the end: a reader that left early would end scontrol by SIGPIPE, and with it, under pipefail, this script.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
# Debian calls a machine's own name 127.0.1.1, by which no other one reaches it.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" sh -c 'hostname --ip-address; hostname --all-ip-addresses' |
  tr ' ' '\n' | awk '/^[0-9.]+$/ && !/^127\./ && !found++')
port=$((20000 + SLURM_JOB_ID % 20000)) # somebody else's Ray may run on the same machine
share=(--num-cpus="$SLURM_CPUS_PER_TASK")
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then share+=(--num-gpus="$SLURM_GPUS_ON_NODE"); fi

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --node-ip-address="$address" --port="$port" \
  --include-dashboard=false "${share[@]}" --block &
ray=$!
until ray status --address "$address:$port" >/dev/null 2>&1; do
  kill -0 "$ray" 2>/dev/null || { echo "error: Ray did not start on $head; what it said is above" >&2; exit 1; }
  sleep 2
done
workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$workers" -gt 0 ]; then
  srun --nodes="$workers" --ntasks="$workers" --exclude="$head" ray start --address="$address:$port" \
    "${share[@]}" --block &
fi

python -m orchestrator.sweep "$@" --address "$address:$port" &
sweep=$! again=
# USR1: the time is nearly over. TERM: the job was cancelled, or made room for another, after which Slurm queues it itself.
trap 'kill -TERM "$sweep"' TERM
trap 'again=yes; kill -TERM "$sweep"' USR1
status=0
wait "$sweep" || { status=$?; wait "$sweep" || status=$?; } # the first one ends when a signal comes
if [ -n "$again" ] && [ "$status" -eq 130 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
