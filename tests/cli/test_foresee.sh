#!/bin/bash
# What techniques can tell of a plan before anything runs: cells that cannot be are planned as skips with one line each,
# by `runexp plan` and by a run alike, and none of their stages begins.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
cd "$scratch" || exit 1
db=$scratch/results/runexp.db
head="model: {family: bert, layers: 2, width: 64, heads: 2, feed_forward: 128, positions: 32}
tokenizer: {type: bpe, vocabulary: 400, lower_case: true, max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
measure: {rounds: 0}
limits: {wall_s: 120, memory_mb: ${MEMORY_MB:-4096}}"
cat >cells.yaml <<EOF
experiment: cells
$head
prepare: [finetune: {steps: 1}]
matrix:
  seed: [1, 2]
  pipeline:
    - [finetune: {steps: 1, r_drop: [0, 1], objective: [task, masked_lm]}]
    - [finetune: {steps: 1, class_weights: [1, 2]}]
    - [finetune: {steps: 1, label_smoothing: 0.1, objective: [masked_lm, task]}]
    - [rtn: {bits: 8}, finetune: {steps: 1}]
    - [rtn: {bits: 8}, rtn: {bits: 4}]
    - [bfloat16: {layers: [query]}, magnitude: {skip: [query]}]
    - [bfloat16: {layers: [query]}, magnitude: {}]
    - [qlora: {steps: 1, merge: [f32, repack]}, finetune: {steps: 1}]
    - [distill: {width: [32, 33, 128], steps: 1}]
    - [distill: {heads: [3, 4], steps: 1}]
    - [distill: {layers: [0, 2], steps: 1}]
    - [distill: {teacher_top: [0, 4], steps: 1}]
    - [distill: {width: 32, steps: 1}, lora: {rank: [32, 64], steps: 1}]
    - [smoothquant: {sites: [up]}]
    - [int8_attention: {}, int8_attention: {}]
EOF
cat >want.txt <<EOF
bfloat16 layers=[query] + magnitude: magnitude: bert.encoder.layer.0.attention.self.query is packed as bf16 already; prune before quantizing
distill heads=3 steps=1: distill: width 64 cannot be shared out among 3 heads
distill heads=4 steps=1: distill: heads 4 cannot be taken from a model of heads 2
distill layers=[0, 2] steps=1: distill: layers: layer 2 does not exist: there are 2, from 0
distill teacher_top=4 steps=1: distill: teacher_top is of causal language models, and the objective is classification
distill width=128 steps=1: distill: width 128 cannot be taken from a model of width 64
distill width=32 steps=1 + lora rank=64 steps=1: lora: rank 64 is above the smaller side of bert.encoder.layer.0.attention.self.query, 32
distill width=33 steps=1: distill: width 33 cannot be shared out among 2 heads
finetune steps=1 class_weights=[1, 2]: finetune: class_weights must be balanced, off, or 8 numbers, one for each class (got 2)
finetune steps=1 r_drop=1 objective=masked_lm: finetune: r_drop is of classification, and the objective is masked_lm
int8_attention + int8_attention: int8_attention: attention is in 8-bit products already
qlora steps=1 merge=repack + finetune steps=1: finetune: needs an f32 model to train; an earlier stage has packed it: move this stage before it
rtn bits=8 + finetune steps=1: finetune: needs an f32 model to train; an earlier stage has packed it: move this stage before it
rtn bits=8 + rtn bits=4: rtn: bert.encoder.layer.0.attention.self.query is packed as int8 already
smoothquant sites=[up]: smoothquant: no such input of a bert model can be smoothed: GELU lets no factor through
EOF
planned() { # FILE SEED
    "$runexp" plan "$1" --db "$db" --format jsonl 2>err.txt | sed '1s/^/[/; $!s/$/,/; $s/$/]/' >plan.json
    query :memory: "SELECT replace(value ->> 'label', ' seed=$2', '') || ': ' || (value ->> 'skip') FROM json_each(readfile('plan.json')) WHERE value ->> 'skip' IS NOT NULL AND value ->> 'seed' = $2" | LC_ALL=C sort
}
for seed in 1 2; do
    planned cells.yaml $seed >got.txt
    check "cells that cannot be are planned as skips (seed $seed)" diff want.txt got.txt
done
check "a plan leaves nothing behind" test ! -e results
"$runexp" cells.yaml --no-report "${options[@]}" >out.txt 2>err.txt
check "they fail no run" test $? -eq 0
ran() { query "$db" "SELECT replace(c.label, ' seed=$1', '') || ': ' || r.reason FROM run r JOIN cell c ON c.id = r.cell_id WHERE r.status = 'skipped' AND c.seed = $1" | LC_ALL=C sort; }
check "a run skips what was planned, for the same reasons" diff want.txt <(ran 1)
check "and all else is a result" test "$(query "$db" "SELECT count(*) FROM result")" = $(($(wc -l <plan.json) - 2 * $(wc -l <want.txt)))
check "no stage of a skip began" test "$(query "$db" "SELECT count(*) FROM run WHERE status = 'skipped' AND wall_ms > 0")" = 0

# Scores of random numbers are no error: their times and sizes are right.
warned() { "$runexp" plan "$1" --db "$db" 2>&1 >out.txt | grep '^warning: '; }
check "trained cells bring no warning" test -z "$(warned cells.yaml)"
{ echo "experiment: chance"; echo "$head"; echo "matrix: {pipeline: [[], [rtn: {}], [finetune: {steps: 1}], [qlora: {steps: 1}]]}"; } >chance.yaml
check "cells of a new model that nothing trains do" test "$(warned chance.yaml)" = \
    "warning: chance: a new model begins as random numbers, and no stage trains 2 of 4 cells ('baseline'): their scores are chance"

# A model that is larger than memory has a plan.
printf 'text\n' >text.txt
cat >large.yaml <<EOF
experiment: large
model: {family: llama, layers: 400, width: 8192, heads: 64, feed_forward: 28672, positions: 64}
tokenizer: {type: bpe, vocabulary: 400}
task: {perplexity: {data: ., test: text.txt}}
matrix: {pipeline: [[], [rtn: {bits: 8}]]}
EOF
"$runexp" plan large.yaml --db "$db" --format jsonl >out.txt 2>err.txt
check "a model larger than memory is planned" test $? -eq 0 -a "$(wc -l <out.txt)" = 2

# What no model could do is refused with its place.
refuse() {
    { echo "experiment: one"; echo "$head"; echo "matrix: {pipeline: [[finetune: {$1}]]}"; } >one.yaml
    "$runexp" plan one.yaml --db "$db" >out.txt 2>err.txt
    check "$2 is refused" test $? -eq 2 -a "$(grep -c "^runexp: one.yaml:7:22: finetune: .*$2" err.txt)" = 1
}
refuse "patience: 3" "patience 3 counts evaluations"
refuse "optimizer: sgd, momentum: 0, nesterov: true" "nesterov needs a momentum"
refuse "class_weights: [1, heavy]" "weight 2 must be a number"
refuse "objective: masked_lm, r_drop: 1" "r_drop is of classification"
refuse "objective: masked_lm, word_dropout: 0.1" "word_dropout is of other objectives"
refuse "objective: causal_lm, class_weights: [balanced]" "class_weights is of classification"
refuse "objective: regression, label_smoothing: 0.1" "label_smoothing is of classification and language models"
exit $failures
