# Shared by the shell tests: a scratch folder with small data and a small experiment. Source it.
# shellcheck shell=bash disable=SC2034
set -u
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build=${BUILD_DIR:-build/release}
case $build in /*) ;; *) build=$PWD/$build ;; esac
runexp=${RUNEXP:-$build/runexp}
# Sanitizer builds, uncommitted work and a chosen cpu mask: the timings of these tests are nobody's result.
options=(--any-build --quiet --cpumask "${CPUMASK:-0xffffffff}")
"$build/tests/helpers/small_wordnet_main" "$scratch/wordnet" || exit 1
failures=0
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1"; failures=1; }
# check NAME COMMAND…: ok when the command succeeds
check() { local name=$1; shift; if "$@"; then ok "$name"; else not_ok "$name"; fi; }
query() { sqlite3 "$1" "$2"; }

# experiment FILE [NAME]: the small experiment
experiment() {
    cat >"$1" <<EOF
experiment: ${2:-small}
model: {family: bert, layers: 2, width: 64, heads: 2, feed_forward: 128, positions: 32}
tokenizer: {type: bpe, vocabulary: 400, lower_case: true, max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
prepare:
  - finetune: {epochs: 5, batch: 16, rate: 0.002}
matrix:
  pipeline:
    - []
    - [null: {}]
    - [rtn: {bits: [8, 4]}]
    - [magnitude: {sparsity: 0.5}]
measure: {rounds: 3, samples: 3, warmup: 1, batch: [1, 4], meters: [time, rusage, papi]}
limits: {wall_s: 120, memory_mb: ${MEMORY_MB:-4096}}
EOF
}
