#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

SLICE=0
WORKER=0
CAPTURE_SECONDS=5
TARGET=""

usage() {
    cat <<EOF
Usage: tpu/profile.sh [--seconds N] [--slice N] [--worker N] [--to FOLDER] [--settings FILE] [--dry-run]

Takes a profile of N seconds of the running job from one host, and copies it into a local folder. The job itself is
asked, through JAX's profiler server on PROFILER_PORT, and goes on meanwhile, somewhat slower.

  --seconds N       how long (5); a profile of a minute is gigabytes
  --slice N         which slice (0)
  --worker N        which worker of the slice (0)
  --to FOLDER       where to (profiles/NAME); look at it with: uvx xprof --logdir FOLDER
$COMMON_OPTIONS
EOF
}

script_option() {
    case $1 in
        --seconds)
            option_value "$1" "$2" '^[1-9][0-9]?$' "whole seconds, 1 to 99"
            CAPTURE_SECONDS=$2
            ;;
        --slice | --worker) option_value "$1" "$2" '^[0-9]+$' "a number from 0 on" ;;&
        --slice) SLICE=$2 ;;
        --worker) WORKER=$2 ;;
        --to)
            option_value "$1" "$2"
            TARGET=$2
            ;;
        *) return 1 ;;
    esac
}

parse_options "$@"
[[ -n ${SETTINGS[PROFILER_PORT]-} ]] ||
    die "$SETTINGS_FILE: PROFILER_PORT is empty, so the job has no profiler server; set it, then tpu/stop.sh, setup.sh, launch.sh"
TARGET=${TARGET:-profiles/${SETTINGS[NAME]}}
on_hosts "$SLICE" "$WORKER" "bash $HOST_FOLDER/host.sh profile --seconds $CAPTURE_SECONDS"
run mkdir -p "$TARGET"
from_host "$SLICE" "$WORKER" "$HOST_FOLDER/profile/plugins" "$TARGET"
note "look at it with: $(quoted uvx xprof --logdir "$TARGET")"
