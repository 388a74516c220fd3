#!/usr/bin/env bash
# Install what the tests of containers, SLURM and network files need, where this is Debian and root may. Fails nowhere: the tests
# that lack something say so and are skipped.
PACKAGES=(buildah podman runc fuse-overlayfs debootstrap netavark slurm-wlm slurm-client munge
    glusterfs-server glusterfs-client)

MISSING=
for tool in buildah podman runc debootstrap sbatch munged gluster; do
    command -v "$tool" >/dev/null || MISSING="$MISSING $tool"
done
if [ -z "$MISSING" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "container tests: not root on Debian, so$MISSING stay missing; what needs them is skipped"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null \
    || echo "container tests: the packages could not be installed; what is missing is skipped"
