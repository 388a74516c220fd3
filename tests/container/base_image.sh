#!/usr/bin/env bash
# localhost/python:3.11-slim without a registry: Debian from this machine's own mirror, and Debian's Python.
#
# Stands in for the official slim Python image where none can be pulled. As root; needs debootstrap, buildah.
set -euo pipefail

TAG=${1:-localhost/python:3.11-slim}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

MIRROR=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
    bookworm "$WORK/root" "$MIRROR" >"$WORK/log" 2>&1 || { tail -20 "$WORK/log"; exit 1; }
chroot "$WORK/root" apt-get clean
rm -rf "$WORK"/root/var/lib/apt/lists/* "$WORK"/root/usr/share/{doc,man,locale}/*
: >"$WORK/root/etc/apt/sources.list" # the mirror is this machine's; build_image.sh lends it for a build
rm -f "$WORK/root/usr/lib/python3.11/EXTERNALLY-MANAGED"
ln -s /usr/bin/python3 "$WORK/root/usr/local/bin/python"

CONTAINER=$(buildah from scratch)
buildah add -q "$CONTAINER" "$WORK/root" / >/dev/null
buildah config --cmd python3 "$CONTAINER"
buildah commit -q --rm "$CONTAINER" "$TAG" >/dev/null
