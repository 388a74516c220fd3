#!/usr/bin/env bash
# Build a Dockerfile from a local base image, with this machine's own package sources lent for the build.
# usage: build_image.sh TAG CONTEXT BASE_IMAGE [buildah bud arguments...]
set -euo pipefail

HERE=$(dirname "$(realpath "$0")")
TAG=$1 CONTEXT=$2 BASE_IMAGE=$3
shift 3
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

MOUNTS=()
while read -r mount; do
    MOUNTS+=(-v "$mount")
done < <("$HERE/lend.sh" "$SCRATCH")

# chroot isolation and the host's network: neither a bridge nor cgroups are to be had everywhere.
buildah bud --isolation chroot --network host --pull-never --format docker \
    --build-arg "BASE_IMAGE=$BASE_IMAGE" "${MOUNTS[@]}" "$@" -t "$TAG" -f "$CONTEXT/Dockerfile" "$CONTEXT"
