# shellcheck shell=bash
# What the scripts of this folder share: their options, running or printing a command, and asking Google Cloud for
# states. A script defines usage(), and script_option() if it has options of its own, sources this, and calls
# parse_options "$@".

TPU_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=settings.sh
source "$TPU_FOLDER/settings.sh"

DRY_RUN=no
QUERIED=""
FLAGS=()
UPLOAD_FOLDER=jaxtune-tpu # on a TPU host, in the home folder: what setup.sh copies there

# shellcheck disable=SC2034 # for the scripts that source this
{
    HOST_FOLDER=/opt/jaxtune # on a TPU host: all that setup.sh installs
    HOST_RUNNING=3           # exit codes of `host.sh check-idle`
    HOST_FINISHED=5
    HOST_FAILED=6
    COMMON_OPTIONS="  --settings FILE   settings to use (tpu/settings.env)
  --dry-run         print the commands, run none
  --help            this text"
}

# parse_options "$@": reads the options, then the settings. script_option NAME VALUE says with its exit code whether it
# knows the option, and sets OPTION_WORDS=2 when it took the value.
parse_options() {
    local file="$TPU_FOLDER/settings.env"
    while (($#)); do
        OPTION_WORDS=1
        case $1 in
            --help | -h)
                usage
                exit 0
                ;;
            --dry-run) DRY_RUN=yes ;;
            --settings)
                option_value "$1" "${2-}"
                file=$2
                ;;
            *)
                if ! declare -F script_option >/dev/null || ! script_option "$1" "${2-}"; then
                    echo "error: ${0##*/} has no option $1; see ${0##*/} --help" >&2
                    exit 2
                fi
                ;;
        esac
        shift "$OPTION_WORDS"
    done
    read_settings "$file"
    FLAGS=("--project=${SETTINGS[PROJECT]}" "--zone=${SETTINGS[ZONE]}")
}

# option_value OPTION VALUE [PATTERN WHAT]: the option has a value, and it matches.
option_value() {
    if [[ -z $2 || $2 == --* ]]; then
        echo "error: $1 needs a value; see ${0##*/} --help" >&2
        exit 2
    elif [[ -n ${3-} && ! $2 =~ $3 ]]; then
        echo "error: $1 $2: expected $4" >&2
        exit 2
    fi
    OPTION_WORDS=2
}

# beside_settings PATH: a path of the settings file made absolute.
beside_settings() {
    case $1 in
        /*) printf '%s' "$1" ;;
        [~]/*) printf '%s' "$HOME${1:1}" ;;
        *) printf '%s/%s' "$(cd "$(dirname "$SETTINGS_FILE")" && pwd)" "$1" ;;
    esac
}

# A command as one line that a shell reads back as the same words.
quoted() {
    local word line=""
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
        line+=" $word"
    done
    printf '%s\n' "${line# }"
}

note() {
    if [[ $DRY_RUN == yes ]]; then
        echo "# $*"
    else
        echo "$*" >&2
    fi
}

# run CMD…: runs it, or prints it.
run() {
    if [[ $DRY_RUN == yes ]]; then
        quoted "$@"
    else
        echo "+ $(quoted "$@")" >&2
        "$@"
    fi
}

# query ASSUMED CMD…: QUERIED is what CMD prints; in a dry run CMD is printed and QUERIED is ASSUMED.
query() {
    local assumed=$1
    shift
    if [[ $DRY_RUN == yes ]]; then
        quoted "$@"
        QUERIED=$assumed
    else
        QUERIED=$("$@") || die "this failed: $(quoted "$@"); its message is above (gcloud auth list shows who you are)"
    fi
}

# queue_state ASSUMED: QUERIED is the state of the queued resource, empty where there is none.
# A list with a filter tells "there is none" from "the question failed"; describe answers both with the same exit code.
queue_state() {
    query "$1" gcloud compute tpus queued-resources list "${FLAGS[@]}" \
        "--filter=name~(^|/)${SETTINGS[NAME]}\$" "--format=value(state.state)"
    [[ $DRY_RUN == no ]] || echo "# assuming: ${1:-there is none}"
}

# node_states: QUERIED is one line a node: name, state, health.
node_states() {
    local name=${SETTINGS[NAME]} assumed
    assumed="$name"$'\tREADY\tHEALTHY'
    if ((SETTINGS[SLICES] > 1)); then
        assumed=$(for ((i = 0; i < SETTINGS[SLICES]; i++)); do printf '%s-%d\tREADY\tHEALTHY\n' "$name" "$i"; done)
        name+='-[0-9]+'
    fi
    query "$assumed" gcloud compute tpus tpu-vm list "${FLAGS[@]}" \
        "--filter=name~(^|/)$name\$" "--format=value(name.basename(),state,health)"
}

# node_gone: a TPU VM of the last node_states was taken away or stopped; one that is being made or repaired only takes time.
node_gone() {
    [[ $QUERIED =~ (PREEMPTED|TERMINATED|STOPPED|STOPPING|DELETING) || -z $QUERIED ]]
}

# nodes_not_ready: of the last node_states, what keeps SLICES nodes from being READY; empty when nothing does.
nodes_not_ready() {
    local name state _ ready=0 others=()
    while IFS=$'\t' read -r name state _; do
        if [[ $state == READY ]]; then
            ready=$((ready + 1))
        elif [[ -n $name ]]; then
            others+=("$name is $state")
        fi
    done <<<"$QUERIED"
    if ((ready < SETTINGS[SLICES])); then
        printf '%d of %d TPU VMs are READY' "$ready" "${SETTINGS[SLICES]}"
        ((${#others[@]} == 0)) || printf ', %s' "${others[@]}"
    fi
}

# gcloud reaches what it can of a partly broken pod with no more than a warning, so this is asked first.
require_ready() {
    local problem
    queue_state ACTIVE
    case $QUERIED in
        ACTIVE) ;;
        "") die "there is no queued resource ${SETTINGS[NAME]} in ${SETTINGS[ZONE]}; create it with tpu/create.sh" ;;
        SUSPENDED | SUSPENDING | FAILED) die "${SETTINGS[NAME]} is $QUERIED (preempted, or refused); tpu/resume.sh makes it anew" ;;
        *) die "${SETTINGS[NAME]} is $QUERIED, not yet ACTIVE; wait (tpu/create.sh --wait) and start this again" ;;
    esac
    node_states
    problem=$(nodes_not_ready)
    [[ -z $problem ]] || die "$problem; tpu/status.sh shows them, tpu/resume.sh makes preempted ones anew"
}

# wait_until_active MINUTES
wait_until_active() {
    local seconds=${JAXTUNE_TPU_POLL_SECONDS:-30} deadline=$((SECONDS + 60 * $1)) last="none"
    note "asked again every $seconds s until it is ACTIVE, for at most $1 minutes"
    while true; do
        queue_state ACTIVE
        [[ $QUERIED == "$last" ]] || note "${SETTINGS[NAME]}: ${QUERIED:-gone}"
        last=$QUERIED
        case $QUERIED in
            ACTIVE)
                node_states
                [[ -n $(nodes_not_ready) ]] || return 0
                ;;
            FAILED | SUSPENDED | "")
                die "${SETTINGS[NAME]} is ${QUERIED:-gone}; the reason is in: $(quoted gcloud compute tpus queued-resources \
                    describe "${SETTINGS[NAME]}" "${FLAGS[@]}")"
                ;;
        esac
        ((SECONDS < deadline)) || die "${SETTINGS[NAME]} is still $QUERIED after $1 minutes; it stays in the queue, start this again"
        sleep "$seconds"
    done
}

ssh_flags() {
    SSH_FLAGS=("${FLAGS[@]}" "--node=$1" "--worker=$2" --quiet)
    [[ ${SETTINGS[IAP]} == no ]] || SSH_FLAGS+=(--tunnel-through-iap)
}

# on_hosts SLICE WORKER COMMAND: runs it there; both may be "all".
on_hosts() {
    ssh_flags "$1" "$2"
    run gcloud compute tpus queued-resources ssh "${SETTINGS[NAME]}" "--command=$3" "${SSH_FLAGS[@]}"
}

# to_hosts FILE…: copies them into UPLOAD_FOLDER of every host.
to_hosts() {
    ssh_flags all all
    run gcloud compute tpus queued-resources scp "$@" "${SETTINGS[NAME]}:$UPLOAD_FOLDER/" "${SSH_FLAGS[@]}"
}

# from_host SLICE WORKER SOURCE TARGET
from_host() {
    ssh_flags "$1" "$2"
    run gcloud compute tpus queued-resources scp "${SETTINGS[NAME]}:$3" "$4" "${SSH_FLAGS[@]}" --recurse
}
