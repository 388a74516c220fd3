#!/usr/bin/env bash
# Install what the browser tests need: Chromium and its driver where this is Debian and root may, axe-core where there is
# npm. Fails nowhere: the tests that lack something say so and are skipped.
cd "$(dirname "$0")" || exit 0
AXE=4.14.1

if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "browser tests: not root on Debian, so Chromium stays missing; what needs it is skipped"
    else
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq \
            && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null; } \
            || echo "browser tests: Chromium could not be installed; what needs it is skipped"
    fi
fi
if [ ! -e .axe/axe.min.js ]; then
    if ! command -v npm >/dev/null; then
        echo "browser tests: no npm, so axe-core stays missing; what needs it is skipped"
    else
        mkdir -p .axe && cd .axe && archive=$(npm pack --silent "axe-core@$AXE") \
            && tar xzf "$archive" --strip-components=1 package/axe.min.js && rm "$archive" \
            || echo "browser tests: axe-core could not be fetched; what needs it is skipped"
    fi
fi
exit 0
