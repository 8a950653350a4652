#!/bin/bash
# A run whose stages quantize: what they tell of layers is stored, served from the cache, exported and drawn, and the
# artifact does what was chosen.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
cd "$scratch" || exit 1
db=$scratch/results/runexp.db
cat >quantize.yaml <<EOF
experiment: quantize
model: {family: bert, layers: 2, width: 64, heads: 2, feed_forward: 128, positions: 32}
tokenizer: {type: bpe, vocabulary: 400, lower_case: true, max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
prepare: [finetune: {epochs: 2, batch: 16, rate: 0.002}]
matrix:
  pipeline:
    - []
    - [ptq_static: {calibrator: [min_max, mse], examples: 32}]
    - [ptq_static: {examples: 32, keep: [query], keep_worst: 1, sensitivity: task, sensitivity_examples: 16, bias_correction: true}]
    - [smoothquant: {auto: true, examples: 32}, equalize: {}, ptq_static: {examples: 32, granularity: tensor}]
measure: {rounds: 0}
limits: {wall_s: 120, memory_mb: ${MEMORY_MB:-4096}}
EOF
"$runexp" quantize.yaml "${options[@]}" >out.txt 2>err.txt
code=$?
check "run exits 0" test $code -eq 0
[ $code -eq 0 ] || tail -n 20 err.txt
page=$(sed -n 's/^report: //p' out.txt | tail -n 1)
layers() { query "$db" "SELECT count(*) FROM layers WHERE $1"; }
check "every cell is a result" test "$(query "$db" "SELECT count(*) FROM result")" = 5
check "layers in int8 are executed packed" test "$(query "$db" "SELECT count(*) FROM result WHERE executes = 'packed' AND NOT is_baseline")" = 4
check "in little more than a quarter of the bytes" test "$(query "$db" "SELECT count(*) FROM result WHERE cell LIKE '%calibrator%' AND linear_bytes < 0.28 * linear_f32_bytes")" = 2
check "every quantized layer is stored" test "$(layers "cell LIKE '%calibrator%'")" = 24
check "but for those left out by name" test "$(layers "cell LIKE '%keep_worst%'"),$(layers "cell LIKE '%keep_worst%' AND layer LIKE '%query'")" = 10,0
check "the worst is in f32" test "$(layers "cell LIKE '%keep_worst%' AND format = 'f32' AND score_lost = (SELECT max(score_lost) FROM layers)")" = 1
check "sensitivities are stored" test "$(layers "error_name = 'divergence_nats' AND error >= 0 AND score_lost IS NOT NULL AND stage = 1")" = 10
check "min_max chooses all that was seen" test "$(layers "cell LIKE '%min_max%' AND low = seen_low AND high = seen_high")" = 12
check "mse a part of it" test "$(layers "cell LIKE '%mse%' AND low >= seen_low AND high <= seen_high")" = 12
check "histograms hold what was seen" test "$(query "$db" "SELECT count(*) FROM layers l WHERE (SELECT sum(value) FROM json_each(l.histogram)) > 0")" = "$(layers 1)"
check "tries are no curve" test "$(query "$db" "SELECT count(*) FROM evaluation e JOIN stage s ON s.run_id = e.run_id AND s.ordinal = e.stage WHERE s.technique = 'ptq_static'")" = 0
"$runexp" export --view layers quantize >layers.csv 2>err.txt
check "layers are exported" test "$(wc -l <layers.csv)" = "$(($(layers 1) + 1))"
if command -v gnuplot >/dev/null; then
    folder=$(dirname "$page")
    check "ranges and sensitivities are drawn" test -s "$folder/layer_ranges.svg" -a -s "$folder/layer_sensitivity.svg"
fi

# The stage that tried every layer is kept: another database gets its model, metrics and layers from the cache.
told() { query "$1" "SELECT group_concat(layer || format || low || high || error || score_lost || histogram) FROM (SELECT * FROM layers WHERE cell LIKE '%keep_worst%' ORDER BY ordinal)"; }
artifact() { query "$1" "SELECT artifact_hash FROM result WHERE cell LIKE '%keep_worst%'"; }
first=$(told "$db")
bytes=$(artifact "$db")
rm results/runexp.db*
"$runexp" quantize.yaml --no-report "${options[@]}" >out.txt 2>err.txt
check "a run with the cache alone exits 0" test $? -eq 0
check "it tells of the same layers" test -n "$first" -a "$(told "$db")" = "$first"
check "it has the same artifact" test "$(artifact "$db")" = "$bytes"
check "from the cache" test "$(query "$db" "SELECT cached FROM stage s JOIN layer l ON l.run_id = s.run_id AND l.stage = s.ordinal WHERE l.score_lost IS NOT NULL LIMIT 1")" = 1

# The head that is kept for stages to train hidden words with is no part of the result: "*" is the 12 layers of blocks,
# the pooler and the classifier, and a share of trained values is one of the values that are left.
cat >aside.yaml <<EOF
experiment: aside
model: {family: bert, layers: 2, width: 64, heads: 2, feed_forward: 128, positions: 32}
tokenizer: {type: bpe, vocabulary: 400, lower_case: true, max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
matrix:
  pipeline:
    - [rtn: {layers: ["*"]}]
    - [rtn: {layers: ["*"], skip: ["cls.*"]}]
    - [rtn: {layers: [head_transform]}]
    - [ptq_static: {layers: ["*"], examples: 32}]
    - [lora: {layers: [query], train_head: false, steps: 1}]
    - [finetune: {objective: masked_lm, steps: 1}, magnitude: {layers: ["*"]}]
measure: {rounds: 0}
limits: {wall_s: 120, memory_mb: ${MEMORY_MB:-4096}}
EOF
rm -rf results
"$runexp" aside.yaml --no-report "${options[@]}" >out.txt 2>err.txt
check "a run of a kept head exits 0" test $? -eq 0
told() { query "$db" "SELECT group_concat(value) FROM metric m JOIN run r ON r.id = m.run_id JOIN cell c ON c.id = r.cell_id WHERE r.kind = 'build' AND m.name = '$2' AND c.label LIKE '$1'"; }
check "* means the layers of the result alone" test "$(told 'rtn %' layers_rounded)" = 14.0,14.0
check "in ptq_static as well" test "$(told 'ptq_static %' layers_rounded)" = 14.0
check "the kept head's layers by name are none" test "$(query "$db" "SELECT count(*) FROM run WHERE status = 'skipped' AND reason LIKE '%head_transform%'")" = 1
values=$(query "$db" "SELECT total_bytes / 4 FROM stage s JOIN run r ON r.id = s.run_id JOIN cell c ON c.id = r.cell_id WHERE c.label LIKE 'lora %'")
check "lora's share is of the values of the result" test "$(query "$db" "SELECT abs($(told 'lora %' trained_frac) * $values / $(told 'lora %' trained_values) - 1) < 1e-9")" = 1
exit $failures
