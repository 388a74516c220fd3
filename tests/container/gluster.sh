#!/usr/bin/env bash
# A network file system in user space for a test: GlusterFS, one server and two clients of this machine, which
# know of each other's locks through the server alone. As root; needs glusterfs-server and /dev/fuse.
# usage: gluster.sh start DIR | gluster.sh stop DIR        the mounts: DIR/a and DIR/b
set -uo pipefail

DIR=$2
VOLUME=atlasgs-test
if [ "$1" = stop ]; then
    umount -l "$DIR/a" "$DIR/b" 2>/dev/null
    gluster --mode=script volume stop "$VOLUME" force
    gluster --mode=script volume delete "$VOLUME"
    kill "$(cat "$DIR/glusterd.pid")"
    exit 0
fi
set -e
mkdir -p "$DIR"/{brick,a,b}
glusterd --log-file="$DIR/glusterd.log" --pid-file="$DIR/glusterd.pid"
for _ in $(seq 20); do
    gluster volume list >/dev/null 2>&1 && break
    sleep 0.5
done
# It takes no loopback address for a server, but a name that leads to one.
gluster --mode=script volume create "$VOLUME" transport tcp "$(hostname -s):$DIR/brick" force
gluster --mode=script volume start "$VOLUME"
for mount in a b; do
    timeout 30 mount -t glusterfs "127.0.0.1:/$VOLUME" "$DIR/$mount"
done
