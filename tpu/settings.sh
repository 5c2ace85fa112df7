# shellcheck shell=bash
# Reads and checks the settings file. Sourced by gcloud_commands.sh on your machine, and by host.sh on each TPU host.
# The file is read, not sourced: nothing in it is executed or expanded.

if ((BASH_VERSINFO[0] < 4)); then
    echo "error: these scripts need bash 4 or newer, this is $BASH_VERSION; install one (macOS: brew install bash)" >&2
    exit 2
fi

REQUIRED_SETTINGS=(PROJECT ZONE NAME ACCELERATOR_TYPE RUNTIME_VERSION PROVISIONING BUCKET JAXTUNE_SOURCE COMMAND)
OPTIONAL_SETTINGS=(SLICES SERVICE_ACCOUNT NETWORK SUBNETWORK IAP SECRETS STOP_TIMEOUT MAX_RESTARTS PROFILER_PORT IMAGE)
declare -A SETTINGS=()
SETTINGS_FILE=""

die() {
    echo "error: $*" >&2
    exit 1
}

# read_settings FILE: fills SETTINGS, or ends with what is wrong, in which line, and what to do.
read_settings() {
    SETTINGS_FILE=$1
    local known=" ${REQUIRED_SETTINGS[*]} ${OPTIONAL_SETTINGS[*]} "
    local line name number=0
    [[ -f $SETTINGS_FILE ]] ||
        die "no settings file $SETTINGS_FILE; copy tpu/settings.env.example to tpu/settings.env and fill it in," \
            "or name yours with --settings FILE"
    SETTINGS=([SLICES]=1 [IAP]=no [STOP_TIMEOUT]=60 [MAX_RESTARTS]=10 [PROFILER_PORT]=9012)
    declare -A seen=()
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        line=${line%$'\r'}
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        [[ $line =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] ||
            die "$SETTINGS_FILE:$number: expected NAME=value; write one setting a line, and comments after a #"
        name=${BASH_REMATCH[1]}
        [[ $known == *" $name "* ]] ||
            die "$SETTINGS_FILE:$number: unknown setting $name; remove it, or use one of:$known"
        [[ -z ${seen[$name]-} ]] ||
            die "$SETTINGS_FILE:$number: $name is set a second time, first in line ${seen[$name]}; keep one"
        seen[$name]=$number
        SETTINGS[$name]=$(bare_value "${BASH_REMATCH[2]}")
    done <"$SETTINGS_FILE"
    check_settings
}

# The value without blanks around it, and without one pair of quotes around all of it.
bare_value() {
    local value=$1 mark
    value=${value#"${value%%[![:space:]]*}"}
    value=${value%"${value##*[![:space:]]}"}
    for mark in '"' "'"; do
        if ((${#value} >= 2)) && [[ $value == "$mark"*"$mark" && ${value:1:${#value}-2} != *"$mark"* ]]; then
            value=${value:1:${#value}-2}
            break
        fi
    done
    printf '%s' "$value"
}

# expect NAME PATTERN WHAT: the value of NAME, if there is one, matches PATTERN.
expect() {
    local value=${SETTINGS[$1]-}
    [[ -z $value || $value =~ $2 ]] || die "$SETTINGS_FILE: $1=$value is not $3"
}

check_settings() {
    local name missing=()
    for name in "${REQUIRED_SETTINGS[@]}"; do
        [[ -n ${SETTINGS[$name]-} ]] || missing+=("$name")
    done
    ((${#missing[@]} == 0)) ||
        die "$SETTINGS_FILE: no value for ${missing[*]}; set it there, tpu/settings.env.example says what each is"
    for name in SLICES IAP STOP_TIMEOUT MAX_RESTARTS; do
        [[ -n ${SETTINGS[$name]} ]] || die "$SETTINGS_FILE: $name is empty; give it a value, or remove the line for the default"
    done
    expect PROJECT '^[a-z][a-z0-9.:-]*[a-z0-9]$' "a project id, as my-project (neither its number nor its display name)"
    expect ZONE '^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$' "a zone, as us-central1-a (tpu/generations.md lists them)"
    expect NAME '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' "a name of at most 40 lower-case letters, digits and hyphens"
    expect ACCELERATOR_TYPE '^(v[234]|v5p|v5litepod|v6e)-[0-9]+$' "an accelerator type, as v5litepod-16 (tpu/generations.md)"
    expect RUNTIME_VERSION '^[a-z0-9][a-z0-9._-]*$' "a runtime version, as v2-alpha-tpuv5-lite (tpu/generations.md)"
    expect PROVISIONING '^(on-demand|spot|reserved)$' "one of on-demand, spot, reserved"
    expect SLICES '^[1-9][0-9]*$' "a whole number of slices, at least 1"
    expect SERVICE_ACCOUNT '^[^@[:space:]]+@[^@[:space:]]+$' "the e-mail address of a service account"
    expect NETWORK '^[a-zA-Z0-9/._-]+$' "the name of a VPC network"
    expect SUBNETWORK '^[a-zA-Z0-9/._-]+$' "the name of a subnetwork"
    expect IAP '^(yes|no)$' "yes or no"
    expect BUCKET '^gs://[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9._-]+)*$' "a bucket or a folder in one, as gs://my-bucket/jaxtune (no slash at the end)"
    expect STOP_TIMEOUT '^[1-9][0-9]*$' "a whole number of seconds, at least 1"
    expect MAX_RESTARTS '^[1-9][0-9]*$' "a whole number, at least 1"
    expect PROFILER_PORT '^[1-9][0-9]{0,4}$' "a port, as 9012, or empty"
    expect IMAGE '^[a-z0-9][a-z0-9./_-]*$' "an image address without a tag, as us-docker.pkg.dev/my-project/jaxtune/jaxtune"
    check_command
}

# COMMAND is put behind exec, so that SIGTERM reaches Python: a second command behind ; or | would never run.
check_command() {
    local text=${SETTINGS[COMMAND]} quote="" char i
    for ((i = 0; i < ${#text}; i++)); do
        char=${text:i:1}
        if [[ $char == "\\" && $quote != "'" ]]; then
            i=$((i + 1))
        elif [[ -n $quote ]]; then
            [[ $char == "$quote" ]] && quote=""
        elif [[ $char == [\"\'] ]]; then
            quote=$char
        elif [[ $char == [\;\&\|\<\>\(\)\`] ]]; then
            die "$SETTINGS_FILE: COMMAND has a bare $char; it must be one simple command, since it is put behind exec;" \
                "quote the $char, or put several commands into a script and name that"
        fi
    done
    [[ -z $quote ]] || die "$SETTINGS_FILE: COMMAND has an opening $quote that is not closed; close it"
}
