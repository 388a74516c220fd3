#!/usr/bin/env bash
# Whether an image can be built here, from this machine's own package sources, and run. usage: probe.sh BASE_IMAGE
set -euo pipefail

HERE=$(dirname "$(realpath "$0")")
TAG=localhost/atlasgs-probe:test
CONTEXT=$(mktemp -d)
trap 'rm -rf "$CONTEXT"' EXIT

cat >"$CONTEXT/Dockerfile" <<'DOCKERFILE'
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && python -m pip download --quiet --no-deps --dest /tmp click && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["true"]
DOCKERFILE
"$HERE/build_image.sh" "$TAG" "$CONTEXT" "$1"
podman run --rm --pull=never --no-healthcheck --network=none --read-only --user=1000:1000 "$TAG"
buildah rmi "$TAG" >/dev/null
