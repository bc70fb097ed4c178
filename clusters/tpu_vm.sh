#!/bin/bash
# A run on the hosts of a TPU slice, requested from the queue of Cloud TPU.
#
#   PROJECT=... ZONE=us-west4-a NAME=pod ACCELERATOR=v5litepod-16 \
#     RUNTIME=v2-alpha-tpuv5-lite SPOT=1 \
#     clusters/tpu_vm.sh experiments.language_model --workdir=gs://bucket/runs/a
#
# --dry-run before the module prints the commands and starts nothing. Start it from the
# project's folder, in tmux on a small machine: the run ends, saved, with the connection.
# The last commit is installed on each host. It requests the slice again after
# preemption, and starts the same command again, which goes on from the last checkpoint,
# up to RESTARTS times; not where the command line is wrong (exit status 2). At the end
# of the run the slice is deleted (KEEP=1 keeps it). The SSH key of gcloud is made where
# there is none, and added to the SSH agent.
#
# NFS: server:/folder that all hosts mount as /mnt/share, for a run folder and data there
# (--workdir=/mnt/share/runs/a); locks stay on their host, since NFS 3 would keep that of
# a host that vanished. A run folder in a bucket needs none.
# NETWORK: of the hosts; default "default". RUNTIME by TPU: v2-alpha-tpuv6e (v6e),
# v2-alpha-tpuv5 (v5p), v2-alpha-tpuv5-lite (v5e), tpu-ubuntu2204-base (v4).

set -u
PROJECT=${PROJECT:-MY-PROJECT}
ZONE=${ZONE:-MY-ZONE}
NAME=${NAME:-MY-NAME}
ACCELERATOR=${ACCELERATOR:-MY-ACCELERATOR}
RUNTIME=${RUNTIME:-MY-RUNTIME}
NFS=${NFS:-}
NETWORK=${NETWORK:-default}
RESTARTS=${RESTARTS:-10}
WAIT_SECONDS=${WAIT_SECONDS:-60}

dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
if (($# == 0)); then
  echo "expected a module such as experiments.language_model, and its flags" >&2
  exit 2
fi
if [[ -z $NFS && " $*" != *" --workdir=gs://"* ]]; then
  echo "NFS: expected a value in the environment, or --workdir=gs://..., got nothing" >&2
  exit 2
fi
for name in PROJECT ZONE NAME ACCELERATOR RUNTIME ${NFS:+NFS}; do
  if [[ ${!name} == *MY-* || -z ${!name} ]]; then
    echo "$name: expected a value in the environment, got ${!name:-nothing}" >&2
    exit 2
  fi
done

run() {
  printf '+%s\n' "$(printf ' %q' "$@")" >&2
  if [[ -z $dry ]]; then "$@"; fi
}

slices() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$NAME" \
    --project="$PROJECT" --zone="$ZONE" "$@"
}

# The rest of the line on the hosts $1 (all, or a number), in a terminal: where the
# connection ends the hosts get SIGHUP, save and stop.
on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --project="$PROJECT" --zone="$ZONE" \
    --worker="$1" --command="$2" --ssh-flag=-tt
}

state() {
  slices describe --format='value(state.state)' 2>>"$log"
}

create() {
  slices create --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
    --runtime-version="$RUNTIME" --network="$NETWORK" ${SPOT:+--spot}
}

# Where there are several hosts, gcloud takes its key from the SSH agent: it fails where
# the agent has it not, and asks for a passphrase where there is no key.
add_key() {
  local key=$HOME/.ssh/google_compute_engine
  if [[ ! -f $key ]]; then
    (umask 077 && mkdir -p "${key%/*}")
    run ssh-keygen -q -t rsa -N '' -f "$key" || return 1
  fi
  ssh-add -l >/dev/null 2>&1
  if (($? == 2)); then
    eval "$(ssh-agent -s)" >/dev/null
    agent=1
  fi
  run ssh-add -q "$key"
}

# Request the slice unless it is there, and wait until it is.
request() {
  local now
  while true; do
    now=$(state)
    case ${dry:+ACTIVE}${now} in
    ACTIVE*) return 0 ;;
    "") create || return 1 ;;
    SUSPENDED | FAILED)
      echo "$NAME: $now, requested again"
      slices delete --force --quiet || return 1
      continue
      ;;
    esac
    echo "$NAME: ${now:-requested}"
    sleep "$WAIT_SECONDS"
  done
}

install() {
  run git archive --format=tar.gz --output="$archive" HEAD || return 1
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:transformer.tar.gz" \
    --project="$PROJECT" --zone="$ZONE" --worker=all || return 1
  on_hosts all "set -e
    test -z $(printf %q "$NFS") || mountpoint -q /mnt/share || {
      sudo apt-get -qq install -y nfs-common
      sudo mkdir -p /mnt/share
      sudo mount -o local_lock=flock $(printf %q "$NFS") /mnt/share
    }
    mkdir -p transformer && tar -xzf transformer.tar.gz -C transformer
    cd transformer
    python3 -m pip install -q --user uv
    test -d .venv || python3 -m uv venv -q --python 3.12 .venv
    python3 -m uv pip install -q --python .venv/bin/python -e '.[tpu,gcs]'"
}

archive=$(mktemp --suffix=.tar.gz)
log=$(mktemp)
kept=
agent=
# shellcheck disable=SC2317,SC2329 # Of the trap below.
finish() {
  rm -f "$archive" "$log"
  if [[ -n $agent ]]; then ssh-agent -k >/dev/null; fi
  if [[ -n $kept ]]; then
    echo "$NAME is still there, and paid for; this deletes it:" >&2
    echo "  gcloud compute tpus queued-resources delete $NAME --force" \
      "--project=$PROJECT --zone=$ZONE" >&2
  fi
}
trap finish EXIT
command="cd transformer && rm -f status
  .venv/bin/python -m$(printf ' %q' "$@")
  status=\$?; echo \$status > status; exit \$status"

if [[ -n $dry ]]; then
  create
elif ! command -v gcloud >/dev/null; then
  echo "expected the command gcloud, got none" >&2
  exit 2
elif ! add_key; then
  echo "expected an SSH agent that takes the key of gcloud, got none" >&2
  exit 2
else
  kept=1
fi
for ((restart = 0; restart <= RESTARTS; restart++)); do
  echo "start $restart on $NAME: $*"
  status=
  if request && install; then
    if on_hosts all "$command"; then
      if [[ -z ${KEEP:-} ]]; then slices delete --force --quiet && kept=; fi
      exit 0
    fi
    # The status of ssh is not that of the run; after preemption nothing answers.
    status=$(on_hosts 0 "cat transformer/status" 2>>"$log" | tr -dc 0-9)
    echo "exit status ${status:-unknown}"
    if [[ $status == 2 ]]; then break; fi
  fi
  sleep "$WAIT_SECONDS"
done
exit "${status:-1}"
