#!/bin/sh
# Take out of an environment what a run never reads. A read-only file system keeps no compiled modules, and
# without them every start takes seconds longer: compile those that the app imports, and no others.
set -eu
SITE=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The packages' own tests, torch's headers and test programs, and pip.
find "$SITE" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
find "$SITE/torch/bin" -type f ! -name torch_shm_manager -delete
rm -rf "$SITE/torch/include" "$SITE"/pip "$SITE"/pip-*.dist-info "$1"/bin/pip*

# Symbols that only a debugger reads; binutils stays in the build stage.
if ! command -v strip >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends binutils
fi
strip --strip-unneeded "$SITE"/torch/lib/libtorch_cpu.so "$SITE"/torch/lib/libtorch_python.so \
    "$SITE"/llvmlite/binding/libllvmlite.so

env -u PYTHONDONTWRITEBYTECODE "$1/bin/python" import_all.py
