#!/usr/bin/env bash
#SBATCH --job-name=cl-imitate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1        # one process a machine; it drives all devices that it sees
#SBATCH --gpus-per-node=8          # machines without GPUs: leave this line out
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@300          # five minutes before the end: every process saves what --resume goes on from
#SBATCH --requeue                  # a preempted job waits for machines again and goes on
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log

# One run over several machines, under Slurm. Adjust the lines above and the ones below, then
#
#     sbatch scripts/slurm_example.sh
#
# Sent again after it was cut short, it goes on where it was (with the same number of processes). Arguments are handed
# on, for example: sbatch scripts/slurm_example.sh --set seed=1
#
# What must be so:
#   - RUN lies on a file system that all machines see. Every process writes there.
#   - The environment (scripts/quickstart makes it in .venv) lies there too, or is the same on every machine.
#   - One process a machine is best. For one a GPU: --ntasks-per-node=8 --gpus-per-task=1.
#
# Machines without GPUs: `--cpu-devices` says into how many devices a process's cores are divided (0: one a core, at
# most 8); processes find each other in the same way, and sums go through gloo.
#
# Slurm tells each process who the others are, so neither --coordinator nor --num-processes is needed. Without Slurm,
# start the same command on every machine with
#     --coordinator FIRST_MACHINE:12345 --num-processes 2 --process-id 0    (and 1 on the second)

set -euo pipefail

CONFIG="${CONFIG:-configs/breakout.toml}"
RUN="${RUN:-$PWD/runs/$(basename "$CONFIG" .toml)-${SLURM_JOB_NAME:-by-hand}}"
PYTHON="${PYTHON:-$PWD/.venv/bin/python}"

# "members" (the default) trains each imitator on one device. With more devices than imitators:
#   data: the rest share each imitator's batch, which must divide evenly;  fsdp: and its weights.
SHARD="${SHARD:-data}"

# --kill-on-bad-exit: a process that dies takes the others with it at once (without it, jax does so after a minute). After
# a notice none leaves before all have saved.
# --wait: when the first has ended with success, the others have ten minutes to do so too.
srun --kill-on-bad-exit=1 --wait=600 \
  "$PYTHON" -m cl_imitate run "$CONFIG" \
  --run-dir "$RUN" \
  --resume \
  --distributed on \
  --set "training.shard=$SHARD" \
  "$@"
