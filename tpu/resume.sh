#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

WAIT_MINUTES=1440
WATCH=no
ASSUMED=SUSPENDED
KEEP_FAILED=no
STATES="ACTIVE|WAITING_FOR_RESOURCES|SUSPENDED|FAILED|none"

usage() {
    cat <<EOF
Usage: tpu/resume.sh [--watch] [--wait MINUTES] [--keep-failed] [--assume STATE] [--settings FILE] [--dry-run]

Brings the job back after a preemption, from whatever is left:
  queued resource SUSPENDED, FAILED or gone     delete it, create it, wait, set up, launch
  ACTIVE with a TPU VM that was preempted       the same
  still in the queue, or a TPU VM in repair     wait, set up, launch
  a TPU VM that came back bare from a repair    stop the others, set up, launch
  ACTIVE, and the job stands still              set up, launch
  the job runs or has finished                  nothing
The run goes on from its last checkpoint in BUCKET. The last line printed is "job: launched", running, finished or failed.

  --watch           look again every minute, until the job has finished (0) or failed for good (1)
  --wait MINUTES    how long to wait for the TPU ($WAIT_MINUTES)
  --keep-failed     leave a job alone that failed MAX_RESTARTS times (--watch does so from its second look on)
  --assume STATE    with --dry-run: the state to print the commands for, $STATES ($ASSUMED)
$COMMON_OPTIONS
EOF
}

script_option() {
    case $1 in
        --watch) WATCH=yes ;;
        --keep-failed) KEEP_FAILED=yes ;;
        --wait)
            option_value "$1" "$2" '^[1-9][0-9]*$' "a whole number of minutes"
            WAIT_MINUTES=$2
            ;;
        --assume)
            option_value "$1" "$2" "^($STATES)\$" "one of $STATES"
            ASSUMED=${2#none}
            ;;
        *) return 1 ;;
    esac
}

# sibling SCRIPT OPTION…: another script of this folder, with the same settings.
sibling() {
    local options=(--settings "$SETTINGS_FILE")
    [[ $DRY_RUN == no ]] || options+=(--dry-run)
    bash "$HERE/$1" "${options[@]}" "${@:2}"
}

create_and_launch() {
    sibling create.sh
    wait_until_active "$WAIT_MINUTES"
    set_up_and_launch
}

recreate() {
    note "$1; the TPU is made anew"
    sibling delete.sh --yes
    create_and_launch
}

# While nodes go away, neither deleting nor creating is accepted.
wait_while_going() {
    while [[ $QUERIED == SUSPENDING || $QUERIED == DELETING ]]; do
        note "${SETTINGS[NAME]} is $QUERIED"
        sleep "${JAXTUNE_TPU_POLL_SECONDS:-30}"
        queue_state ""
    done
}

set_up_and_launch() {
    sibling setup.sh
    sibling launch.sh
}

# From QUERIED=ACTIVE on: JOB is launched, running, finished or failed.
resume_active() {
    local problem if_set_up="if [ -e $HOST_FOLDER/host.sh ]; then bash $HOST_FOLDER/host.sh"
    node_states
    problem=$(nodes_not_ready)
    if [[ -n $problem ]] && node_gone; then
        recreate "$problem"
        return
    elif [[ -n $problem ]]; then
        wait_until_active "$WAIT_MINUTES"
    fi
    ssh_flags all all
    query "jaxtune-job: idle" gcloud compute tpus queued-resources ssh "${SETTINGS[NAME]}" \
        "--command=$if_set_up state; else echo jaxtune-job: absent; fi" "${SSH_FLAGS[@]}"
    case $QUERIED in
        *"job: absent"*)
            # A slice that Google Cloud repaired is bare, while the others start again and again and wait for it.
            if [[ $QUERIED == *"job: running"* ]]; then
                on_hosts all all "$if_set_up stop; fi"
            fi
            set_up_and_launch
            ;;
        *"job: running"*) JOB=running ;;
        *"job: failed"*)
            if [[ $KEEP_FAILED == yes ]]; then
                JOB=failed
            else
                set_up_and_launch
            fi
            ;;
        *"job: idle"*) set_up_and_launch ;;
        *"job: finished"*) JOB=finished ;;
        *) die "the hosts of ${SETTINGS[NAME]} did not say how the job stands; tpu/status.sh shows more" ;;
    esac
}

resume() {
    JOB=launched
    queue_state "$ASSUMED"
    wait_while_going
    case $QUERIED in
        ACTIVE) resume_active ;;
        SUSPENDED | FAILED) recreate "${SETTINGS[NAME]} is $QUERIED" ;;
        "") create_and_launch ;;
        *)
            wait_until_active "$WAIT_MINUTES"
            set_up_and_launch
            ;;
    esac
    if [[ $DRY_RUN == no ]]; then
        echo "job: $JOB"
    fi
}

# Each look is a process of its own: one that fails (no network, a host that does not answer) is not the end of the watch.
watch() {
    local options=(--wait "$WAIT_MINUTES") output status errors=0
    while true; do
        status=0
        output=$(sibling resume.sh "${options[@]}") || status=$?
        printf '%s\n' "$output"
        case ${output##*$'\n'} in
            "job: finished") return 0 ;;
            "job: failed") die "the job failed too often; tpu/logs.sh says why, tpu/launch.sh starts it again" ;;
        esac
        if ((status)); then
            errors=$((errors + 1))
            ((errors < 10)) || die "ten looks in a row failed; the reason is above"
        else
            errors=0
        fi
        options=(--wait "$WAIT_MINUTES" --keep-failed)
        sleep "${JAXTUNE_TPU_POLL_SECONDS:-60}"
    done
}

parse_options "$@"
if [[ $WATCH == yes && $DRY_RUN == no ]]; then
    watch
else
    resume
fi
