#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

YES=no

usage() {
    cat <<EOF
Usage: tpu/delete.sh --yes [--settings FILE] [--dry-run]

Deletes the queued resource and its TPU VMs, with all that is on their disks. A job that runs gets no time to save:
tpu/stop.sh first. BUCKET stays as it is, and goes on costing what it holds. Where there is nothing, nothing is done.

  --yes             really delete
$COMMON_OPTIONS
EOF
}

script_option() {
    [[ $1 == --yes ]] || return 1
    YES=yes
}

parse_options "$@"
[[ $YES == yes || $DRY_RUN == yes ]] ||
    die "this deletes ${SETTINGS[NAME]} in ${SETTINGS[PROJECT]} (${SETTINGS[ZONE]}) and the disks of its TPU VMs; add --yes to mean it"
queue_state ACTIVE
if [[ -z $QUERIED ]]; then
    note "there is no queued resource ${SETTINGS[NAME]}: nothing to delete"
    exit 0
elif [[ $QUERIED == DELETING ]]; then
    note "${SETTINGS[NAME]} is being deleted already"
    exit 0
fi
run gcloud compute tpus queued-resources delete "${SETTINGS[NAME]}" "${FLAGS[@]}" --force --quiet
