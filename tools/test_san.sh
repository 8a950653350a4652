#!/bin/bash
# The quick tests under ASan+UBSan and under TSan, each with all cpu features and with none (cpu mask 0).
# CPUMASK is read by the tests' support code and handed to runexp with --cpumask. Without cpu features the real models
# take many minutes under a sanitizer and run no line that the small goldens do not: SLOW=1 runs them all the same.
set -u
code=0
jobs=$(nproc)
export OMP_WAIT_POLICY=passive KILLS=1
for mode in asan tsan; do
    make --no-print-directory -j"$jobs" MODE=$mode tests-build || exit 1
    for mask in 0xffffffff 0; do
        left_out=
        if [ "$mask" = 0 ] && [ -z "${SLOW:-}" ]; then left_out='%/test_minilm %/test_smollm2 %/test_real_models'; fi
        echo "== $mode, cpu mask $mask${left_out:+, without the real models}"
        CPUMASK=$mask \
            ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
            LSAN_OPTIONS=suppressions=$PWD/tools/lsan.suppressions:print_suppressions=0 \
            TSAN_OPTIONS=halt_on_error=1:suppressions=$PWD/tools/tsan.suppressions \
            make --no-print-directory MODE=$mode LEAVE_OUT="$left_out" test || code=1
    done
done
exit $code
