#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

WAIT_MINUTES=""

usage() {
    cat <<EOF
Usage: tpu/create.sh [--wait MINUTES] [--settings FILE] [--dry-run]

Asks for the TPU: a queued resource of SLICES slices of ACCELERATOR_TYPE, on demand, spot or reserved. Where it is there
already, in whatever stage, nothing is done.

  --wait MINUTES    return when it is ACTIVE, or with an error after MINUTES
$COMMON_OPTIONS
EOF
}

script_option() {
    [[ $1 == --wait ]] || return 1
    option_value "$1" "$2" '^[1-9][0-9]*$' "a whole number of minutes"
    WAIT_MINUTES=$2
}

create() {
    local flags=("${FLAGS[@]}" "--accelerator-type=${SETTINGS[ACCELERATOR_TYPE]}" "--runtime-version=${SETTINGS[RUNTIME_VERSION]}")
    if ((SETTINGS[SLICES] > 1)); then
        flags+=("--node-count=${SETTINGS[SLICES]}" "--node-prefix=${SETTINGS[NAME]}")
    else
        flags+=("--node-id=${SETTINGS[NAME]}")
    fi
    case ${SETTINGS[PROVISIONING]} in
        spot) flags+=(--spot) ;;
        reserved) flags+=(--reserved) ;;
    esac
    [[ -z ${SETTINGS[SERVICE_ACCOUNT]-} ]] || flags+=("--service-account=${SETTINGS[SERVICE_ACCOUNT]}")
    [[ -z ${SETTINGS[NETWORK]-} ]] || flags+=("--network=${SETTINGS[NETWORK]}")
    [[ -z ${SETTINGS[SUBNETWORK]-} ]] || flags+=("--subnetwork=${SETTINGS[SUBNETWORK]}")
    [[ ${SETTINGS[IAP]} == no ]] || flags+=(--internal-ips)
    run gcloud compute tpus queued-resources create "${SETTINGS[NAME]}" "${flags[@]}" --async --quiet
}

parse_options "$@"
queue_state ""
case $QUERIED in
    "") create ;;
    SUSPENDED | SUSPENDING | FAILED | DELETING)
        die "${SETTINGS[NAME]} is there and is $QUERIED; tpu/resume.sh makes it anew, tpu/delete.sh --yes removes it"
        ;;
    *) note "${SETTINGS[NAME]} is there already, $QUERIED: nothing to do" ;;
esac
if [[ -n $WAIT_MINUTES ]]; then
    wait_until_active "$WAIT_MINUTES"
fi
note "next: tpu/status.sh until it is ACTIVE, then tpu/setup.sh"
