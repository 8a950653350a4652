#!/bin/bash
# The quick tests under ASan+UBSan and under TSan (SANITIZERS: "asan", "tsan" or both), in four parts:
#   asan, all cpu features   every test
#   asan, cpu mask 0         compiled tests, which then run other kernels; without the real models, training loops and techniques, which
#                            take minutes and run no line that the small goldens and the tests of core do not
#   tsan, all cpu features   what runs on several threads: not the kernels (a kernel knows one thread) nor most scripts
#   tsan, cpu mask 0         with SLOW=1 alone: the same threads over other kernels
# SLOW=1 runs every test in each part. CPUMASK is read by the tests' support code and handed to runexp with --cpumask.
set -u
code=0
jobs=$(nproc)
export OMP_WAIT_POLICY=passive KILLS=1
real='%/test_minilm %/test_smollm2 %/test_real_models'
scripts='tests/cli/%.sh tests/faults/%.sh tests/techniques/%.sh'
techniques='build/asan/tests/techniques/% %/test_pass %/test_train_loop'
threadless='%/test_kernels %/test_checker_catches %/test_checker_catches_training %/test_amx_emulated %/test_dequantize'
threadless+=' %/test_stories %/test_bad_input tests/cli/test_end_to_end.sh tests/cli/test_pretrained.sh tests/cli/test_resume.sh'
threadless+=' tests/cli/test_bad_input_cli.sh tests/faults/%.sh tests/techniques/%.sh'

# part MODE MASK LEFT_OUT
part() {
    local left_out=$3
    if [ -n "${SLOW:-}" ]; then left_out=; fi
    echo "== $1, cpu mask $2${left_out:+, without $left_out}"
    CPUMASK=$2 \
        ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
        LSAN_OPTIONS=suppressions=$PWD/tools/lsan.suppressions:print_suppressions=0 \
        TSAN_OPTIONS=halt_on_error=1:suppressions=$PWD/tools/tsan.suppressions \
        make --no-print-directory MODE="$1" LEAVE_OUT="$left_out" test || code=1
}

for mode in ${SANITIZERS:-asan tsan}; do
    make --no-print-directory -j"$jobs" MODE="$mode" tests-build || exit 1
    if [ "$mode" = asan ]; then
        part asan 0xffffffff ''
        part asan 0 "$real $scripts $techniques"
    else
        part tsan 0xffffffff "$real $threadless"
        if [ -n "${SLOW:-}" ]; then part tsan 0 ''; fi
    fi
done
exit $code
