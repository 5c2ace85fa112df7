#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=gcloud_commands.sh
source "$HERE/gcloud_commands.sh"

usage() {
    cat <<EOF
Usage: tpu/setup.sh [--settings FILE] [--dry-run]

Installs on every host of every slice, under $HOST_FOLDER: Python 3.12 with uv where the image has none from 3.11 on,
jaxtune[tpu,gcs] from JAXTUNE_SOURCE, and the systemd unit that runs COMMAND. Run it again after every change of the
settings or of the code. Refused on hosts where the job runs (tpu/stop.sh): its files must not change under it.

$COMMON_OPTIONS
EOF
}

# A local folder is packed without what Git, tests and runs leave there.
pack_source() {
    local folder=$1 archive=$2 left_out=() pattern
    for pattern in ./.git './.venv*' ./runs ./build ./dist './.*_cache' ./.hypothesis __pycache__ '*.egg-info' settings.env secrets.env; do
        left_out+=("--exclude=$pattern")
    done
    run mkdir -p "$(dirname "$archive")"
    run tar -czf "$archive" "${left_out[@]}" -C "$folder" .
}

parse_options "$@"
require_ready
files=("$(beside_settings "$(basename "$SETTINGS_FILE")")" "$HERE/settings.sh" "$HERE/remote/host.sh" "$HERE/remote/capture_profile.py")
arguments=(--settings "$UPLOAD_FOLDER/$(basename "$SETTINGS_FILE")")
if [[ ${SETTINGS[JAXTUNE_SOURCE]} == [./~]* ]]; then
    checkout=$(beside_settings "${SETTINGS[JAXTUNE_SOURCE]}")
    [[ -f $checkout/pyproject.toml ]] ||
        die "$SETTINGS_FILE: JAXTUNE_SOURCE=${SETTINGS[JAXTUNE_SOURCE]}: there is no $checkout/pyproject.toml;" \
            "name a checkout of jaxtune, absolute or relative to the settings file"
    archive="${TMPDIR:-/tmp}/jaxtune-tpu-${SETTINGS[NAME]}/source.tar.gz"
    pack_source "$(cd "$checkout" && pwd)" "$archive"
    files+=("$archive")
    arguments+=(--archive "$UPLOAD_FOLDER/source.tar.gz")
fi
if [[ -n ${SETTINGS[SECRETS]-} ]]; then
    secrets=$(beside_settings "${SETTINGS[SECRETS]}")
    [[ -f $secrets ]] || die "$SETTINGS_FILE: SECRETS=${SETTINGS[SECRETS]}: there is no file $secrets; make it, or leave the setting empty"
    files+=("$secrets")
    arguments+=(--secrets "$UPLOAD_FOLDER/$(basename "$secrets")")
fi
on_hosts all all "mkdir -p $UPLOAD_FOLDER && chmod 700 $UPLOAD_FOLDER"
to_hosts "${files[@]}"
on_hosts all all "bash $UPLOAD_FOLDER/host.sh setup --prefix $HOST_FOLDER $(quoted "${arguments[@]}")"
note "next: tpu/launch.sh"
