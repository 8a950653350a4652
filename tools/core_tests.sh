#!/bin/bash
# Print those of the given test sources that need nothing but core/: every header they include, directly or through
# tests/support, lies in core/ or is a system's. Builds without libraries (BACKENDS=none) and cross builds run these.
set -u
cd "$(dirname "$0")/.." || exit 1
declare -A known

# core_only FILE: 0 when the file and its own headers in tests/support need core alone.
core_only() {
    local file=$1 target base
    [ -n "${known[$file]:-}" ] && return "${known[$file]}"
    known[$file]=0
    while read -r target; do
        base=tests/support/$target
        if [ -e "core/$target" ]; then continue; fi
        case $target in ../*) [ -e "$(dirname "$file")/$target" ] && continue ;; esac
        if [ -e "$base" ] && core_only "$base" && { [ ! -e "${base%.h}.c" ] || core_only "${base%.h}.c"; }; then continue; fi
        known[$file]=1
        return 1
    done < <(sed -n 's/^#include "\(.*\)"/\1/p' "$file")
    return 0
}

for source in "$@"; do
    if core_only "$source"; then echo "$source"; fi
done
