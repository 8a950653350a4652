#!/bin/bash
# Pretrained models through every task, from one file of several experiments: a new classification head that is
# fine-tuned, similarity of embeddings, perplexity in windows and rolling, storage as an axis, generation timed by phase.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
"$build/tests/helpers/small_pretrained_main" "$scratch/small" || exit 1
cd "$scratch" || exit 1
db=$scratch/results/runexp.db
cat >several.yaml <<EOF
experiment: sentiment
model: {path: small/encoder}
tokenizer: {max_tokens: 32}
task: {classification: {data: nowhere, train: sentiment.tsv, validation: "", test: reviews.tsv, text: content, train_text: sentence}}
prepare: [finetune: {epochs: 6, batch: 16, rate: 0.003}]
matrix: {pipeline: [[], [rtn: {bits: 8}]]}
measure: {rounds: 2, samples: 2, warmup: 1, batch: [1], meters: [time]}
---
experiment: pairs
model: {path: small/encoder/}
task: {similarity: {data: nowhere, test: pairs.tsv, validation: "", first: first, second: second, header: []}}
matrix: {pipeline: [[], [rtn: {bits: 4, group: 32}]], storage: [f32, bf16]}
measure: {rounds: 2, samples: 2, warmup: 1, batch: [4], meters: [time]}
---
experiment: windows
model: {path: small/decoder}
task: {perplexity: {data: nowhere, test: story.txt, window: 32}}
matrix: {pipeline: [[], [rtn: {bits: 4, group: 32}]], storage: [f32, f16]}
measure: {rounds: 3, samples: 2, warmup: 1, batch: [1], prompt_tokens: 8, new_tokens: 6, cache: int8, meters: [time]}
---
experiment: grades
model: {path: small/encoder}
task: {regression: {data: nowhere, train: pairs.tsv, validation: "", test: pairs.tsv, first: first, header: []}}
prepare: [finetune: {steps: 5, batch: 16, rate: 0.001}]
matrix: {pipeline: [[], [rtn: {bits: 8}]]}
measure: {rounds: 2, samples: 2, warmup: 1, batch: [1], meters: [time]}
---
experiment: rolling
model: {path: small/decoder}
task: {perplexity_rolling: {data: nowhere, test: story.txt, window: 32, stride: 8}}
measure: {rounds: 0, batch: [1], meters: [time]}
EOF

"$runexp" plan several.yaml --set data=small >plan.txt 2>err.txt
check "plan exits 0" test $? -eq 0
check "what is trained, or has its head, brings no warning" test ! -s err.txt
"$runexp" plan several.yaml --set data=small --set prepare=[] >/dev/null 2>err.txt
check "heads that nothing trains do" test "$(grep -c "^warning: .*: the model lacks its task's head, .* of 2 cells ('baseline')" err.txt)" = 2
check "plan names the path of a model that is opened later" grep -q "^  small/decoder, task perplexity" plan.txt
"$runexp" several.yaml --set data=small "${options[@]}" >out.txt 2>err.txt
code=$?
check "run exits 0" test $code -eq 0
[ $code -eq 0 ] || tail -n 20 err.txt
page_of() { sed -n 's/^report: //p' out.txt | grep "/$1/\|/$1\." | head -n 1; }
check "five experiments have five reports" test "$(grep -c '^report: ' out.txt)" = 5
check "every cell is a result" test "$(query "$db" "SELECT group_concat(n) FROM (SELECT count(*) AS n FROM result GROUP BY experiment ORDER BY experiment)")" = 2,4,1,2,4
metric() { # EXPERIMENT NAME: of the first baseline
    query "$db" "SELECT m.value FROM metric m JOIN result r ON r.run_id = m.run_id WHERE r.experiment = '$1' AND m.name = '$2' AND m.stage_id IS NULL AND r.is_baseline ORDER BY r.ordinal LIMIT 1"
}
is_so() { test "$(query "$db" "SELECT $1")" = 1; }

check "the new head learns the labels" is_so "$(metric sentiment accuracy) > 0.9"
check "similarity is scored on 120 pairs" test "$(query "$db" "SELECT DISTINCT o.items FROM outcome o JOIN result r USING (run_id) WHERE r.experiment = 'pairs' AND o.name = 'value'")" = 120
check "spearman is a correlation" is_so "abs($(metric pairs spearman)) BETWEEN 1e-6 AND 1"
pair="FROM result a JOIN result b USING (experiment) WHERE a.pipeline = 'baseline' AND b.pipeline = 'unchanged' AND a.storage = 'f32' AND b.storage"
check "bf16 moves the embeddings a little" is_so "abs(a.metric_value - b.metric_value) < 0.1 AND a.metric_value <> b.metric_value $pair = 'bf16'"
check "f16 moves the perplexity a little" is_so "abs(a.metric_value / b.metric_value - 1) < 0.01 AND a.metric_value <> b.metric_value $pair = 'f16'"
check "storage is while running, not in the file" is_so "a.artifact_hash = b.artifact_hash $pair = 'f16'"
check "perplexity is compared window by window" test "$(query "$db" "SELECT count(*) FROM result WHERE experiment = 'windows' AND metric_name = 'perplexity_windows' AND metric_difference_lo IS NOT NULL")" = 4
check "rolling scores more than whole windows do" is_so "$(metric rolling scored_tokens) > $(metric windows scored_tokens)"
check "three phases are timed" test "$(query "$db" "SELECT group_concat(p) FROM (SELECT DISTINCT phase AS p FROM sample JOIN result r ON r.experiment = 'windows' JOIN run t ON t.id = sample.run_id AND t.cell_id = r.cell_id ORDER BY p)")" = ",decode,prefill"
check "decode counts the tokens after the first" test "$(query "$db" "SELECT DISTINCT tokens FROM sample WHERE phase = 'decode'")" = 5
check "prefill counts the prompt" test "$(query "$db" "SELECT DISTINCT tokens FROM sample WHERE phase = 'prefill'")" = 8
check "the whole is its phases" test "$(query "$db" "SELECT count(*), sum(abs(w.latency_ns - p.latency_ns - d.latency_ns) > 1) FROM sample w JOIN sample p ON p.run_id = w.run_id AND p.ordinal = w.ordinal AND p.phase = 'prefill' JOIN sample d ON d.run_id = w.run_id AND d.ordinal = w.ordinal AND d.phase = 'decode' WHERE w.phase = ''")" = "36|0"
check "phases have ratios to the baseline" test "$(query "$db" "SELECT count(*) FROM comparison WHERE name IN ('prefill_ratio', 'decode_ratio')")" = 8

page=$(page_of windows)
check "the page shows prefill and decode" grep -q '<h2>Prefill and decode</h2>' "$page"
check "the page names the model by its last part" grep -q 'variants do to decoder on the task' "$page"
check "a slash at the end is no name" grep -q 'variants do to encoder on the task' "$(page_of pairs)"
check "a page about perplexity is silent about accuracy" test "$(grep -ci accuracy "$page")" = 0
check "a page without generation is silent about it" test "$(grep -c 'Prefill and decode' "$(page_of pairs)")" = 0
dat=$(find results/report -path '*windows*' -name 'latency_distribution_batch1.dat')
check "the figure shows whole generations only" test "$(grep -v '^#' "$dat" | awk 'NF == 0 { exit } { n++ } END { print n }')" = 24

cell_of() { query "$db" "SELECT cell FROM result WHERE experiment = 'windows' AND pipeline = '$1' ORDER BY ordinal LIMIT 1"; }
"$runexp" compare "windows/$(cell_of baseline)" "windows/$(cell_of rtn)" --format csv >compare.txt 2>err.txt
check "compare exits 0" test $? -eq 0
check "compare pairs perplexity by window" grep -q 'perplexity_windows,.*difference,.*paired on [0-9]* items. percentile bootstrap' compare.txt
check "compare has the whole and both phases" test "$(grep -c 'latency_ms batch 1\|prefill_ms batch 1\|decode_ms batch 1' compare.txt)" = 3

# A text longer than the model's positions is cut there, without max_tokens being said.
{ printf 'content\tlabel\n'; for _ in $(seq 200); do printf 'good film '; done; printf '\t1\nbad\t0\n'; } >small/long.tsv
cat >long.yaml <<EOF
experiment: long
model: {path: small/encoder}
task: {classification: {data: small, train: "", validation: "", test: long.tsv, text: content}}
measure: {rounds: 0, batch: [1], meters: [time]}
EOF
"$runexp" long.yaml "${options[@]}" >out.txt 2>err.txt
check "a text longer than the model's positions is cut" test $? -eq 0
"$runexp" long.yaml --set tokenizer.path=small/encoder/model.safetensors "${options[@]}" >out.txt 2>err.txt
check "tensors without a tokenizer exit 2" test $? -eq 2
check "and are named as such" grep -q 'small/encoder/model.safetensors: holds tensors and no tokenizer: name one' err.txt

exit $failures
