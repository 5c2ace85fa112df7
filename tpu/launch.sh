#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

usage() {
    cat <<EOF
Usage: tpu/launch.sh [--settings FILE] [--dry-run]

Starts the job on all hosts of all slices. Refused while it runs on any of them (tpu/stop.sh ends it), and before
tpu/setup.sh. A job that was interrupted goes on from its last checkpoint.

$COMMON_OPTIONS
EOF
}

parse_options "$@"
require_ready
status=0
on_hosts all all "bash $HOST_FOLDER/host.sh check-idle" || status=$?
case $status in
    0 | "$HOST_FINISHED" | "$HOST_FAILED") ;;
    "$HOST_RUNNING") die "a job runs on ${SETTINGS[NAME]}; tpu/logs.sh shows it, tpu/stop.sh ends it" ;;
    127) die "a host of ${SETTINGS[NAME]} has no $HOST_FOLDER/host.sh; run tpu/setup.sh first" ;;
    *) die "a host of ${SETTINGS[NAME]} did not answer or is not set up (exit code $status); run tpu/setup.sh, then start this again" ;;
esac
on_hosts all all "bash $HOST_FOLDER/host.sh start"
note "next: tpu/logs.sh --follow"
