#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

SLICE=0
WORKER=0
LINES_SHOWN=100
FOLLOW=""

usage() {
    cat <<EOF
Usage: tpu/logs.sh [--slice N|all] [--worker N|all] [--lines N] [--follow] [--settings FILE] [--dry-run]

The end of the job's log. Worker 0 of slice 0 is where jaxtune reports; lines carry the name of their host.

  --slice N|all     which slice (0)
  --worker N|all    which worker of the slice (0)
  --lines N         how many lines of each (100)
  --follow          go on with new lines until Ctrl-C
$COMMON_OPTIONS
EOF
}

script_option() {
    case $1 in
        --slice | --worker) option_value "$1" "$2" '^([0-9]+|all)$' "a number from 0 on, or all" ;;&
        --slice) SLICE=$2 ;;
        --worker) WORKER=$2 ;;
        --lines)
            option_value "$1" "$2" '^[1-9][0-9]*$' "a whole number"
            LINES_SHOWN=$2
            ;;
        --follow) FOLLOW=" --follow" ;;
        *) return 1 ;;
    esac
}

parse_options "$@"
on_hosts "$SLICE" "$WORKER" "bash $HOST_FOLDER/host.sh logs --lines $LINES_SHOWN$FOLLOW"
