#!/bin/bash
# Run test programs (cmocka) and scripts (lines "ok NAME", "not ok NAME", "skipped: …"), show failures, and
# end with "N passed, N failed, N skipped". Exit 1 when anything failed or nothing ran. RUNNER: what runs a program that
# is not this machine's ("qemu-aarch64 -cpu max").
build=$1
shift
export BUILD_DIR=$build RUNEXP=${RUNEXP:-$PWD/$build/runexp} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    start=$(date +%s%N)
    # shellcheck disable=SC2086
    case $t in *.sh) bash "$t" >"$log" 2>&1 ;; *) ${RUNNER:-} "$t" >"$log" 2>&1 ;; esac
    code=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    p=$(grep -cE '^\[ +OK \]|^ok ' "$log")
    f=$(grep -cE '^\[  FAILED  \] [^0-9]|^not ok ' "$log")
    s=$(grep -cE '^\[  SKIPPED \] [^0-9]|^skipped: ' "$log")
    # cmocka lists failed and skipped tests twice (as they happen and in its summary).
    case $t in *.sh) ;; *) f=$(grep -E '^\[  FAILED  \] [^0-9]' "$log" | sort -u | wc -l); s=$(grep -E '^\[  SKIPPED \] [^0-9]' "$log" | sort -u | wc -l) ;; esac
    if [ $code -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ "$p" -eq 0 ] && [ "$f" -eq 0 ] && [ "$s" -eq 0 ]; then f=1; echo "no test ran" >>"$log"; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-52s %4d passed %3d failed %3d skipped %7d ms\n' "${t#"$build"/}" "$p" "$f" "$s" "$ms"
    if [ "$f" -gt 0 ]; then echo "---- $t (exit $code)"; tail -n 60 "$log"; echo "----"; fi
    grep -hE '^skipped: ' "$log" | sort -u
done
if [ $((passed + failed)) -eq 0 ]; then echo "no test ran"; failed=1; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
