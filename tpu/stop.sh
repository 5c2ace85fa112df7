#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

usage() {
    cat <<EOF
Usage: tpu/stop.sh [--settings FILE] [--dry-run]

Ends the job on all hosts with SIGTERM: it saves within its grace period and stays stopped. tpu/launch.sh goes on.
Where no job runs, nothing is done.

$COMMON_OPTIONS
EOF
}

parse_options "$@"
require_ready
on_hosts all all "bash $HOST_FOLDER/host.sh stop"
