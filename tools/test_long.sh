#!/bin/bash
# The slower checks, on an idle machine: the main experiment's claims, twenty kills, the harness against itself.
# Prints ok / not ok lines and the figures behind them, then "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
runexp=$PWD/build/release/runexp
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
check() {
    local name=$1
    shift
    if "$@"; then echo "ok $name"; passed=$((passed + 1)); else echo "not ok $name"; failed=$((failed + 1)); fi
}
# sql DB QUERY: does the query give 1?
holds() { [ "$(sqlite3 "$1" "$2")" = 1 ]; }
finish() { echo "$passed passed, $failed failed, $skipped skipped"; [ $failed -eq 0 ]; exit $?; }

if [ ! -r /usr/share/wordnet/data.noun ]; then echo "skipped: wordnet-base is not installed"; skipped=1; finish; fi
build_option=()
"$runexp" --version | grep -q modified && build_option=(--any-build)

db=$work/demo/runexp.db
start=$(date +%s)
"$runexp" configs/quickstart.yaml --db "$db" "${build_option[@]}" >"$work/out" 2>"$work/err"
code=$?
first_s=$(($(date +%s) - start))
tail -n 3 "$work/err"
check "the main experiment exits 0 ($first_s s)" test $code -eq 0
check "the main experiment takes at most 360 s ($first_s s)" test $first_s -le 360
start=$(date +%s)
"$runexp" configs/quickstart.yaml --db "$db" "${build_option[@]}" >"$work/out" 2>"$work/err"
check "a second run, from the cache, exits 0" test $? -eq 0
second_s=$(($(date +%s) - start))
check "a second run takes under 60 s ($second_s s)" test $second_s -lt 60
sqlite3 -header -column "$db" "SELECT cell, round(metric_value, 4) AS accuracy, round(metric_difference, 4) AS difference, size_bytes, round(1.0 * linear_bytes / linear_f32_bytes, 4) AS of_f32, round(bits_per_weight, 3) AS bits, executes, round(latency_ms_median, 3) AS ms, round(latency_ratio, 3) AS ratio, round(latency_ratio_lo, 3) AS lo, round(latency_ratio_hi, 3) AS hi FROM result ORDER BY ordinal"
sqlite3 -header -column "$db" "SELECT cell, batch, round(latency_ms_median, 3) AS ms, round(latency_ratio, 3) AS ratio, round(latency_ratio_lo, 3) AS lo, round(latency_ratio_hi, 3) AS hi FROM timing WHERE session_id = (SELECT max(id) FROM session) ORDER BY batch, ordinal"
sqlite3 -header -column "$db" "SELECT k.name, round(k.estimate, 4) AS difference, round(k.lo, 4) AS lo, round(k.hi, 4) AS hi, k.p_value FROM comparison k JOIN cell c ON c.id = k.cell_id WHERE c.is_baseline AND k.name LIKE 'vs_%' AND k.session_id = (SELECT max(id) FROM session)"
check "the encoder beats the word classifier (paired, p < 0.05)" holds "$db" "SELECT k.estimate > 0 AND k.p_value < 0.05 FROM comparison k JOIN cell c ON c.id = k.cell_id WHERE c.is_baseline AND k.name = 'vs_linear, words' AND k.session_id = (SELECT max(id) FROM session)"
check "int8 loses at most 0.5 points" holds "$db" "SELECT metric_difference >= -0.005 FROM result WHERE cell = 'rtn bits=8'"
check "int4 in groups of 64 loses at most 2 points" holds "$db" "SELECT min(metric_difference) >= -0.02 FROM result WHERE cell LIKE 'rtn bits=4 group=64%'"
check "int8 layers take at most 0.27 of their f32 bytes" holds "$db" "SELECT 1.0 * linear_bytes / linear_f32_bytes <= 0.27 FROM result WHERE cell = 'rtn bits=8'"
check "int4 layers take at most 0.16 of their f32 bytes" holds "$db" "SELECT max(1.0 * linear_bytes / linear_f32_bytes) <= 0.16 FROM result WHERE cell LIKE 'rtn bits=4 group=64%'"
check "every latency comes with a paired ratio and an interval" holds "$db" "SELECT count(*) = 0 FROM timing WHERE session_id = (SELECT max(id) FROM session) AND (latency_ratio IS NULL OR latency_ratio_lo IS NULL OR latency_ratio_hi IS NULL)"
check "int8 at batch 1 is faster than f32 (whole interval below 1)" holds "$db" "SELECT latency_ratio_hi < 1 FROM result WHERE cell = 'rtn bits=8'"

KILLS=20 BUILD_DIR=build/release bash tests/cli/test_resume.sh >"$work/kills" 2>&1
cat "$work/kills"
check "twenty kills" grep -q '^ok killed 20 times' "$work/kills"

db=$work/self/runexp.db
for _ in $(seq 20); do "$runexp" configs/selfcheck.yaml --db "$db" --no-report --quiet "${build_option[@]}" 2>"$work/err" || tail -n 1 "$work/err"; done
covered=$(sqlite3 "$db" "SELECT count(*) FROM comparison k JOIN cell c ON c.id = k.cell_id WHERE c.label = 'null' AND k.name = 'latency_ratio' AND k.lo <= 1 AND k.hi >= 1")
tries=$(sqlite3 "$db" "SELECT count(*) FROM comparison k JOIN cell c ON c.id = k.cell_id WHERE c.label = 'null' AND k.name = 'latency_ratio'")
overhead=$(sqlite3 "$db" "SELECT round(overhead_ms, 2) FROM run WHERE kind = 'time' AND status = 'ok' ORDER BY overhead_ms LIMIT 1 OFFSET (SELECT count(*) / 2 FROM run WHERE kind = 'time' AND status = 'ok')")
worst=$(sqlite3 "$db" "SELECT round(max(overhead_ms), 2) FROM run WHERE kind = 'time' AND status = 'ok'")
# An exact 95 % interval covers at least 18 of 20 in 92 runs of 100, and at least 15 in 2999 of 3000: continuous integration
# asks for the latter (COVERED_MIN=15), so that it does not fail by chance.
check "null against null: the interval covers 1 in $covered of $tries tries" test "$covered" -ge "${COVERED_MIN:-18}"
check "harness overhead at most 10 ms a run (median $overhead ms, worst $worst ms)" test "$(echo "$overhead <= 10" | bc 2>/dev/null || awk "BEGIN {print ($overhead <= 10)}")" = 1
finish
