#!/bin/bash
# A Ray cluster inside of a Slurm job, and a sweep on it: sbatch cluster/slurm.sh JOB.yaml NAME. cluster/README.md says how.
#SBATCH --job-name=paretune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
set -euo pipefail
job="$1" name="$2"
cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate

umask 077
folder="$PWD/.slurm-$SLURM_JOB_ID" && mkdir "$folder" && trap 'rm -rf "$folder"' EXIT
python -c "import secrets; print(secrets.token_hex(32))" > "$folder/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head="${nodes[0]}"
address="$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')"
port=$((20000 + SLURM_JOB_ID % 10000))          # jobs of one node do not meet
srun --nodes=1 --ntasks=1 --overlap -w "$head" ray start --head --node-ip-address "$address" --port "$port" \
    --dashboard-host 127.0.0.1 --num-cpus "$SLURM_CPUS_PER_TASK" --labels pool=train --block &
sleep 20
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap -w "$node" ray start --address "$address:$port" \
        --num-cpus "$SLURM_CPUS_PER_TASK" --labels board=target --block &
done
sleep 20
srun --nodes=1 --ntasks=1 --overlap -w "$head" paretune sweep "$job" --name "$name" --address "$address:$port"
