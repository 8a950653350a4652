#!/bin/bash
# Formatter, static analyser, dependency order, headers compile alone, warnings under clang, shell scripts.
# Each part prints one line; exit 1 when any fails. LINT_FAST=1 leaves the analysers out.
set -u
failed=0
report() { if [ "$2" -eq 0 ]; then echo "ok $1"; else echo "not ok $1"; failed=1; fi; }
mapfile -t sources < <(git ls-files '*.c' '*.h')
mapfile -t c_files < <(git ls-files 'core/*.c' 'techniques/*.c' 'harness/*.c')
out=$(mktemp)
trap 'rm -f "$out"' EXIT

if command -v clang-format >/dev/null; then
    clang-format --dry-run -Werror "${sources[@]}" >"$out" 2>&1
    code=$?
    [ $code -eq 0 ] || grep -h 'error' "$out" | cut -d: -f1 | sort | uniq -c | head -n 20
    report "formatter" $code
fi

# Dependencies point one way: base < kernels < formats < model < train, text, io < techniques < harness.
# io and text know no model: model reads and writes files through io, so they stand below it.
awk '
BEGIN {
    allow["base"] = "base"; allow["kernels"] = "base kernels"; allow["formats"] = "base kernels formats"
    allow["io"] = "base kernels io formats"; allow["text"] = "base io text"
    allow["model"] = "base kernels formats io model"; allow["train"] = "base kernels formats io model text train"
    allow["techniques"] = "base kernels formats io text model train technique.h"
}
FNR == 1 { split(FILENAME, part, "/"); layer = part[1] == "core" ? part[2] : part[1] == "techniques" ? "techniques" : ""; own = part[1] == "techniques" ? part[2] : "" }
layer != "" && /^#include "/ {
    split($0, quoted, "\""); target = quoted[2]; slash = index(target, "/")
    first = slash ? substr(target, 1, slash - 1) : target
    if (!slash && first != "technique.h") next
    if (index(" " allow[layer] " ", " " first " ") == 0) { print FILENAME ":" FNR ": " layer " must not include " target; bad = 1 }
}
END { exit bad }' $(git ls-files 'core/*.[ch]' 'core/*/*.[ch]' 'techniques/*/*.[ch]' | sort -u)
report "dependency order" $?

code=0
for header in $(git ls-files 'core/*.h' 'techniques/*.h' 'harness/*.h'); do
    gcc -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -fsyntax-only -Icore -Itechniques -Iharness -x c "$header" || { echo "$header"; code=1; }
done
report "every header compiles alone" $code

# A technique shows its one symbol and nothing else; what its files share among themselves is hidden and begins with its
# name, so that it meets no other's in one executable.
code=0
for object in build/release/obj/techniques/*/*.o; do
    [ -e "$object" ] || continue
    name=$(basename "$(dirname "$object")")
    extra=$(readelf -sW "$object" | awk -v n="$name" '
        $5 == "GLOBAL" && $7 != "UND" && $8 != "technique_" n && !($6 == "HIDDEN" && index($8, n "_") == 1) {print $8}')
    [ -z "$extra" ] || { echo "$object: exports $extra besides technique_$name"; code=1; }
done
report "techniques export one symbol" $code

if [ "${LINT_FAST:-0}" = 0 ]; then
    if command -v clang >/dev/null; then
        make -s build/release/generated/build_info.h 2>/dev/null
        code=0
        for file in "${c_files[@]}"; do
            isa=""
            case $file in
            *_amx.c) isa="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mamx-tile -mamx-bf16 -mamx-int8" ;;
            *_avx2.c) isa="-mavx2 -mfma -mf16c" ;;
            *_avx512vnni.c) isa="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni" ;;
            *_avx512*.c) isa="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl" ;;
            esac
            # shellcheck disable=SC2086
            clang -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror \
                -fsyntax-only -Icore -Itechniques -Iharness -Ibuild/release/generated -DBUILD_MODE='"lint"' $(pkg-config --cflags openblas) $isa "$file" || code=1
        done
        report "no warnings under clang" $code
    fi
    if command -v cppcheck >/dev/null; then
        cppcheck -q -j 2 --std=c11 --enable=warning,portability,performance --error-exitcode=1 --inline-suppr \
            --suppressions-list=tools/cppcheck.suppressions -Icore -Itechniques -Iharness -D_GNU_SOURCE "${c_files[@]}" >"$out" 2>&1
        code=$?
        [ $code -eq 0 ] || head -n 40 "$out"
        report "static analyser" $code
    fi
    if command -v shellcheck >/dev/null; then
        shellcheck -x -P SCRIPTDIR -S warning -e SC1087,SC2046,SC2153 tools/*.sh tests/*/*.sh .ci/run
        report "shell scripts" $?
    fi
fi
exit $failed
