#!/bin/sh
# Install a C compiler where the environment holds Triton; the CPU wheel of torch comes without it.
set -eu
if "$1/bin/python" -c 'import importlib.util as util; raise SystemExit(util.find_spec("triton") is None)'; then
    apt-get update
    apt-get install -y --no-install-recommends gcc libc6-dev
    rm -rf /var/lib/apt/lists/*
fi
