#!/bin/sh
# Install with apt exactly the packages that are missing; says what it will do; nothing when all is there.
# DEPS_EXTRA=1 adds what `make lint`, the emulated kernel tests, valgrind, `make models` and cross builds need.
set -eu
packages="gcc make pkg-config git libc6-dev libyaml-dev libsqlite3-dev libopenblas-openmp-dev libdnnl-dev libpapi-dev libjansson-dev nettle-dev libcmocka-dev gnuplot-nox wordnet-base sqlite3 libsimde-dev unicode-data"
[ "${DEPS_EXTRA:-0}" = 0 ] || packages="$packages clang libclang-rt-dev clang-format clang-tidy cppcheck shellcheck valgrind python3-pip python3-venv gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
missing=""
for package in $packages; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "deps: everything is installed"
    exit 0
fi
if [ "$(id -u)" = 0 ]; then as_root=""; elif command -v sudo >/dev/null 2>&1; then as_root="sudo"; else
    echo "deps: these packages are missing and neither root nor sudo is at hand; as root run: apt-get install$missing" >&2
    exit 1
fi
echo "deps: installing with apt:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
{ $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; } || {
    echo "deps: apt failed; try: $as_root apt-get update && $as_root apt-get install$missing" >&2
    exit 1
}
echo "deps: done"
