#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

RUN_NAME=""
TARGET=""
LEFT_OUT='(^|.*/)checkpoints/.*'

usage() {
    cat <<EOF
Usage: tpu/copy_results.sh [--run NAME] [--to FOLDER] [--checkpoints] [--settings FILE] [--dry-run]

Copies runs from BUCKET/runs to this machine: metrics, reports, the best model. What is here already is not copied
again, and nothing is deleted on either side.

  --run NAME        one run (all of them)
  --to FOLDER       where to (runs, in the current folder)
  --checkpoints     with the checkpoints, which only resuming needs
$COMMON_OPTIONS
EOF
}

script_option() {
    case $1 in
        --run)
            option_value "$1" "$2" '^[A-Za-z0-9][A-Za-z0-9._/-]*$' "the name of a run"
            RUN_NAME=$2
            ;;
        --to)
            option_value "$1" "$2"
            TARGET=$2
            ;;
        --checkpoints) LEFT_OUT="" ;;
        *) return 1 ;;
    esac
}

parse_options "$@"
source_folder="${SETTINGS[BUCKET]}/runs${RUN_NAME:+/$RUN_NAME}"
TARGET="${TARGET:-runs}${RUN_NAME:+/$RUN_NAME}"
run mkdir -p "$TARGET"
run gcloud storage rsync "$source_folder" "$TARGET" "--project=${SETTINGS[PROJECT]}" ${LEFT_OUT:+"--exclude=$LEFT_OUT"} --recursive
