#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

usage() {
    cat <<EOF
Usage: tpu/status.sh [--settings FILE] [--dry-run]

State of the queued resource, state and health of its TPU VMs, and of each host the systemd unit with its exit code
(0 finished, 75 saved after SIGTERM, anything else failed).

$COMMON_OPTIONS
EOF
}

parse_options "$@"
queue_state ACTIVE
[[ $DRY_RUN == yes ]] || echo "queued resource ${SETTINGS[NAME]}: ${QUERIED:-none}"
case $QUERIED in
    ACTIVE) ;;
    "")
        note "tpu/create.sh makes one"
        exit 0
        ;;
    SUSPENDED | SUSPENDING | FAILED)
        note "preempted, or refused; tpu/resume.sh makes it anew"
        exit 0
        ;;
    *)
        note "waiting for Google Cloud"
        exit 0
        ;;
esac
node_states
if [[ $DRY_RUN == no ]]; then
    while IFS=$'\t' read -r name state health; do
        echo "TPU VM ${name:-(none)}: ${state:-unknown}, health ${health:-not reported}"
    done <<<"$QUERIED"
    problem=$(nodes_not_ready)
    if [[ -n $problem ]]; then
        note "$problem; tpu/resume.sh makes preempted ones anew"
        exit 0
    fi
fi
on_hosts all all "bash $HOST_FOLDER/host.sh status"
