#!/usr/bin/env bash
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../gcloud_commands.sh
source "$HERE/../gcloud_commands.sh"

TARGETS=()
TAG=""

usage() {
    cat <<EOF
Usage: tpu/docker/push.sh [--target cpu|tpu|cuda]... [--tag TAG] [--settings FILE] [--dry-run]

Builds images from this checkout and pushes them as IMAGE:TARGET-TAG.

  --target TARGET   cpu, tpu or cuda, several times if wanted (tpu)
  --tag TAG         which version (the commit of the checkout)
$COMMON_OPTIONS
EOF
}

script_option() {
    case $1 in
        --target)
            option_value "$1" "$2" '^(cpu|tpu|cuda)$' "cpu, tpu or cuda"
            TARGETS+=("$2")
            ;;
        --tag)
            option_value "$1" "$2" '^[A-Za-z0-9_][A-Za-z0-9_.-]*$' "a tag"
            TAG=$2
            ;;
        *) return 1 ;;
    esac
}

parse_options "$@"
image=${SETTINGS[IMAGE]-}
[[ -n $image ]] || die "$SETTINGS_FILE: IMAGE is empty; set the address to push to, as us-docker.pkg.dev/${SETTINGS[PROJECT]}/jaxtune/jaxtune"
checkout=$(cd "$HERE/../.." && pwd)
if [[ -z $TAG ]]; then
    TAG=$(git -C "$checkout" describe --always --dirty 2>/dev/null) || die "$checkout is no Git checkout; name the version with --tag"
fi
((${#TARGETS[@]})) || TARGETS=(tpu)
if [[ $image == *.pkg.dev/* ]]; then
    run gcloud auth configure-docker "${image%%/*}" --quiet
fi
for target in "${TARGETS[@]}"; do
    run docker build --target "$target" --tag "$image:$target-$TAG" --file "$HERE/Dockerfile" "$checkout"
    run docker push "$image:$target-$TAG"
done
