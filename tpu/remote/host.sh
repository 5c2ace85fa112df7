#!/usr/bin/env bash
# What is done on one TPU host. setup.sh copies this there and calls `setup`, which installs it in PREFIX; the other
# commands are called from PREFIX.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../settings.sh
source "$HERE/settings.sh"

UNIT=jaxtune.service
UNIT_FOLDER=${JAXTUNE_UNIT_FOLDER:-/etc/systemd/system}  # another one in tests
PYTHON_WANTED=3.12
PYTHON_LEAST=3.11
SAVED=75    # exit code of a run that was saved after SIGTERM
RUNNING=3   # exit codes of check-idle
FINISHED=5
FAILED=6

usage() {
    cat <<EOF
Usage: host.sh setup --settings FILE [--prefix FOLDER] [--archive SOURCE.tar.gz] [--secrets FILE]
       host.sh start | stop | status | state | check-idle
       host.sh logs [--lines N] [--follow]
       host.sh profile [--seconds N]

state prints "jaxtune-job: idle", running, finished or failed.
check-idle ends with 0 (the job was never started, or was stopped), $RUNNING (runs), $FINISHED (finished) or $FAILED (failed too often).
EOF
}

as_root() {
    if (($(id -u) == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

say() { echo "$(hostname): $*"; }

# --- setup ---------------------------------------------------------------------------------------------------------

setup() {
    local prefix=/opt/jaxtune settings="" archive="" secrets="" state=0
    while (($#)); do
        case $1 in
            --prefix) prefix=${2:?} ;;
            --settings) settings=${2:?} ;;
            --archive) archive=${2:?} ;;
            --secrets) secrets=${2:?} ;;
            *) die "host.sh setup has no option $1" ;;
        esac
        shift 2
    done
    read_settings "$settings"
    check_idle || state=$?
    ((state != RUNNING)) || die "$(hostname): the job runs, and its files must not change under it; tpu/stop.sh ends it"
    make_prefix "$prefix"
    find_uv "$prefix"
    make_venv "$prefix"
    install_jaxtune "$prefix" "$archive"
    install -m 644 "$settings" "$prefix/settings.env"
    install -m 644 "$HERE/settings.sh" "$HERE/capture_profile.py" "$prefix"
    install -m 755 "$HERE/host.sh" "$prefix"
    if [[ -n $secrets ]]; then
        as_root install -m 600 "$secrets" "$prefix/secrets.env"
        rm -f "$secrets"
    fi
    job_script >"$prefix/job.sh"
    install_unit "$prefix"
    say "$("$prefix/venv/bin/python" -c 'import sys, importlib.metadata as m
print("Python", sys.version.split()[0], *(f"{p} {m.version(p)}" for p in ("jaxtune", "jax", "jaxlib")), sep=", ")')"
}

make_prefix() {
    if ! mkdir -p "$1" 2>/dev/null || [[ ! -w $1 ]]; then
        as_root mkdir -p "$1"
        as_root chown -R "$(id -un):" "$1"
    fi
    mkdir -p "$1/work"
    export UV_PYTHON_INSTALL_DIR="$1/python" UV_CACHE_DIR="$1/uv-cache"
}

# UV is uv: the one on PATH, or one installed here with pip, or with its own installer.
find_uv() {
    UV=$(command -v uv || true)
    if [[ -z $UV && ! -x $1/uv/bin/uv ]]; then
        python3 -m pip install --quiet --disable-pip-version-check --target "$1/uv" uv ||
            curl -LsSf https://astral.sh/uv/install.sh | env UV_UNMANAGED_INSTALL="$1/uv/bin" sh ||
            die "$(hostname): uv cannot be installed, neither with pip nor with curl; give the TPU VMs a way to the internet" \
                "(with IAP=yes: Cloud NAT)"
    fi
    UV=${UV:-$1/uv/bin/uv}
}

make_venv() {
    local python
    if [[ -x $1/venv/bin/python ]] && "$1/venv/bin/python" -c "import sys; sys.exit(sys.version_info < (${PYTHON_LEAST/./, }))"; then
        return
    fi
    python=$("$UV" python find --no-project ">=$PYTHON_LEAST" 2>/dev/null || true)
    if [[ -z $python ]]; then
        "$UV" python install "$PYTHON_WANTED"
        python=$PYTHON_WANTED
    fi
    rm -rf "$1/venv"
    "$UV" venv --quiet --python "$python" "$1/venv"
}

# requirement ARCHIVE-FOLDER: JAXTUNE_SOURCE as a requirement with the extras that a TPU needs.
requirement() {
    local source=${SETTINGS[JAXTUNE_SOURCE]}
    if [[ -n $1 ]]; then
        echo "jaxtune[tpu,gcs] @ file://$1"
    elif [[ $source == git+* ]]; then
        echo "jaxtune[tpu,gcs] @ $source"
    elif [[ $source == *://* ]]; then
        echo "jaxtune[tpu,gcs] @ git+$source"
    elif [[ $source =~ ^jaxtune([^A-Za-z0-9._\[-].*)?$ ]]; then
        echo "jaxtune[tpu,gcs]${source#jaxtune}"
    else
        die "JAXTUNE_SOURCE=$source is neither a Git address, nor a requirement on jaxtune (jaxtune==0.1.0), nor a local folder"
    fi
}

install_jaxtune() {
    local folder="" wanted
    if [[ -n $2 ]]; then
        folder=$1/source
        rm -rf "$folder"
        mkdir -p "$folder"
        tar -xzf "$2" -C "$folder"
    fi
    wanted=$(requirement "$folder")
    # Its version number stays the same while its files change.
    "$UV" pip install --quiet --python "$1/venv/bin/python" --reinstall-package jaxtune "$wanted"
}

job_script() {
    cat <<EOF
#!/usr/bin/env bash
# Written by host.sh setup from COMMAND. exec, so that systemd's SIGTERM reaches Python itself; env, so that COMMAND may
# begin with NAME=value.
exec env ${SETTINGS[COMMAND]}
EOF
}

# KillMode=mixed: SIGTERM goes to Python alone, which stops its data workers itself. Code $SAVED counts as a good end and
# yet is started again, unless systemd itself asked for the end (systemctl stop, shutdown).
unit_file() {
    local prefix=$1
    cat <<EOF
[Unit]
Description=jaxtune job ${SETTINGS[NAME]}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=3600
StartLimitBurst=${SETTINGS[MAX_RESTARTS]}

[Service]
Type=exec
User=$(id -un)
WorkingDirectory=$prefix/work
Environment=PATH=$prefix/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=PYTHONUNBUFFERED=1
Environment=NAME=${SETTINGS[NAME]}
Environment=BUCKET=${SETTINGS[BUCKET]}
# an error where there is no TPU, instead of days on the CPU
Environment=JAX_PLATFORMS=tpu,cpu
Environment=JAX_COMPILATION_CACHE_DIR=${SETTINGS[BUCKET]}/jax-cache
Environment=JAXTUNE_CACHE=$prefix/work/cache
Environment=JAXTUNE_PROFILER_PORT=${SETTINGS[PROFILER_PORT]-}
# from SECRETS, readable by root alone
EnvironmentFile=-$prefix/secrets.env
ExecStart=/bin/bash $prefix/job.sh
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec=${SETTINGS[STOP_TIMEOUT]}
Restart=on-failure
RestartSec=10
RestartForceExitStatus=$SAVED
SuccessExitStatus=$SAVED
# libtpu locks the memory that the TPU reads; a checkpoint opens many files
LimitMEMLOCK=infinity
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
EOF
}

install_unit() {
    unit_file "$1" >"$1/$UNIT"
    if ! cmp -s "$1/$UNIT" "$UNIT_FOLDER/$UNIT"; then
        as_root install -m 644 "$1/$UNIT" "$UNIT_FOLDER/$UNIT"
    fi
    as_root systemctl daemon-reload
}

# --- the job -------------------------------------------------------------------------------------------------------

# What systemd knows of the unit, into JOB.
ask_systemd() {
    local name value wanted=ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,ExecMainStartTimestamp,NRestarts,StateChangeTimestamp
    declare -gA JOB=()
    while IFS="=" read -r name value; do
        JOB[$name]=$value
    done < <(systemctl show "$UNIT" "--property=$wanted")
}

need_unit() {
    [[ -f $UNIT_FOLDER/$UNIT ]] || die "$(hostname) has no $UNIT; run tpu/setup.sh first"
}

check_idle() {
    ask_systemd
    case ${JOB[ActiveState]-} in
        inactive) ;;
        failed) return "$FAILED" ;;
        "") die "$(hostname): systemctl says nothing of $UNIT" ;;
        *) return "$RUNNING" ;;
    esac
    # Stopped with code 75 is not finished. Before its first start a unit has no time of one; its exit code 1 is CLD_EXITED.
    if [[ -n ${JOB[ExecMainStartTimestamp]-} && ${JOB[ExecMainCode]-} == 1 && ${JOB[ExecMainStatus]-} == 0 ]]; then
        return "$FINISHED"
    fi
}

# For resume.sh, which must tell hosts apart: exit codes of several hosts come back as one.
state() {
    local code=0 word=idle
    check_idle || code=$?
    case $code in
        "$RUNNING") word=running ;;
        "$FINISHED") word=finished ;;
        "$FAILED") word=failed ;;
    esac
    echo "jaxtune-job: $word"
}

start() {
    need_unit
    as_root systemctl reset-failed "$UNIT" 2>/dev/null || true
    # enabled: it is started again after the host reboots for maintenance
    as_root systemctl enable --quiet "$UNIT"
    as_root systemctl start "$UNIT"
    say "$UNIT started"
}

stop() {
    need_unit
    as_root systemctl disable --quiet "$UNIT"
    as_root systemctl stop "$UNIT"
    status
}

status() {
    if [[ -f $UNIT_FOLDER/$UNIT ]]; then
        ask_systemd
        say "$UNIT ${JOB[ActiveState]-unknown} (${JOB[SubState]-}), result ${JOB[Result]-}, exit code ${JOB[ExecMainStatus]-}," \
            "restarts ${JOB[NRestarts]-}, since ${JOB[StateChangeTimestamp]-}"
    else
        say "not set up"
    fi
}

logs() {
    local options=(--no-pager --lines=100)
    while (($#)); do
        case $1 in
            --lines)
                options+=("--lines=${2:?}")
                shift
                ;;
            --follow) options+=(--follow) ;;
            *) die "host.sh logs has no option $1" ;;
        esac
        shift
    done
    as_root journalctl "--unit=$UNIT" "${options[@]}"
}

profile() {
    local seconds=5 port
    if (($#)); then
        [[ $1 == --seconds ]] || die "host.sh profile has no option $1"
        seconds=${2:?}
    fi
    read_settings "$HERE/settings.env"
    port=${SETTINGS[PROFILER_PORT]-}
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null ||
        die "$(hostname): nothing listens on port $port; either no job runs (tpu/status.sh), or it still compiles, or it was" \
            "set up before PROFILER_PORT was set"
    make_prefix "$HERE"
    find_uv "$HERE"
    if [[ ! -x $HERE/profiler/bin/xprof ]]; then
        rm -rf "$HERE/profiler"
        "$UV" venv --quiet --python "$HERE/venv/bin/python" "$HERE/profiler"
        "$UV" pip install --quiet --python "$HERE/profiler/bin/python" xprof
    fi
    rm -rf "$HERE/profile"
    "$HERE/profiler/bin/python" "$HERE/capture_profile.py" --port "$port" --seconds "$seconds" --folder "$HERE/profile"
    [[ -n $(find "$HERE/profile" -name '*.xplane.pb' 2>/dev/null) ]] || die "$(hostname): the profiler server sent nothing; try again"
    say "profile of $seconds s taken"
}

command=${1-}
shift || true
case $command in
    setup | start | stop | status | state | logs | profile) "$command" "$@" ;;
    check-idle) check_idle ;;
    --help | -h) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
