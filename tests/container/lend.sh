#!/usr/bin/env bash
# Print the mounts, one a line as FROM:TO:ro, that lend a build this machine's own apt, pip and CA settings.
#
# They hold for the time of the build, so no file of the project names a host. usage: lend.sh SCRATCH_DIR
set -euo pipefail

for file in /etc/apt/sources.list.d/*.sources /etc/apt/apt.conf.d/99* /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then
        echo "$file:$file:ro"
    fi
done

# pip's settings from all its files and variables as one file; the folders that they name are lent, too.
{
    echo "[global]"
    python3 -m pip config list | sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'$/\2 = \3/p" | grep -v '^constraint ' \
        | awk -F' = ' '!seen[$1]++' || true
} >"$1/pip.conf"
chmod 755 "$1"
chmod 644 "$1/pip.conf"
echo "$1/pip.conf:/etc/pip.conf:ro"
grep -oE '(^|[ =]|file://)/[^ ]+' "$1/pip.conf" | grep -oE '/[a-z].*' | grep -v '^/etc/' \
    | sed 's#/simple/*$##' | sort -u | while read -r path; do # an index links to the files beside it
        if [ -d "$path" ]; then
            echo "$path:$path:ro"
        fi
    done || true
