#!/bin/bash
# One tiny experiment through every part: plan, run, cache, results, report, exit codes.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
cd "$scratch" || exit 1
experiment small.yaml
db=$scratch/results/runexp.db

"$runexp" plan small.yaml >plan.txt 2>err.txt
check "plan exits 0" test $? -eq 0
check "plan counts five cells" grep -q '5 cells' plan.txt
check "plan runs nothing" test ! -e "$db"
sed '/pipeline:/,/magnitude/d' small.yaml >long.yaml
sed -i 's/^matrix:/matrix:\n  pipeline:\n    - [distill: {depth: 1, steps: 1000000, batch: 16}]\n    - [distill: {depth: 1, steps: 1000000, batch: 16}, rtn: {bits: 8}]\n    - [distill: {depth: 2, steps: 1000000, batch: 16}]\n    - [distill: {depth: 1, steps: 1000000, batch: 16, r_drop: 1}]/' long.yaml
"$runexp" plan long.yaml --format jsonl >plan.txt 2>err.txt
check "a plan of training has an estimate of each cell" test "$(grep -c '"seconds":[0-9]' plan.txt)" -ge 4
# Cells as the plan numbers them, the baseline first: work that another cell pays for, twice the layers, twice the passes.
check "a plan counts shared stages once, the student's layers and both passes of R-Drop" awk '
    match($0, /"seconds":[0-9.]+/) { s[n++] = 0 + substr($0, RSTART + 10, RLENGTH - 10) }
    END { one = s[1]; exit !(s[2] < one / 4 && s[3] > 1.5 * one && s[3] < 2.1 * one && s[4] > 1.5 * one && s[4] < 2.1 * one) }' plan.txt

"$runexp" small.yaml "${options[@]}" >out.txt 2>err.txt
code=$?
check "run exits 0" test $code -eq 0
[ $code -eq 0 ] || tail -n 20 err.txt
page=$(sed -n 's/^report: //p' out.txt | tail -n 1)
check "the report exists" test -s "$page"
check "every cell is a result" test "$(query "$db" 'SELECT count(*) FROM result')" = 5
check "every cell has a paired latency ratio" test "$(query "$db" "SELECT count(*) FROM result WHERE latency_ratio IS NOT NULL OR is_baseline")" = 5
check "int8 and int4 are executed packed" test "$(query "$db" "SELECT count(*) FROM result WHERE pipeline = 'rtn' AND executes = 'packed'")" = 2
check "pruned zeros are marked simulated" test "$(query "$db" "SELECT count(*) FROM result WHERE pipeline = 'magnitude' AND executes = 'simulated'")" = 1
check "the artifact is the file of its hash" bash -c "cd '$scratch' && sqlite3 '$db' 'SELECT hash, path FROM artifact' | while IFS='|' read -r h p; do [ \"\$(sha256sum < \"\$p\" | cut -d ' ' -f 1)\" = \"\$h\" ] || exit 1; done"
check "what was timed is what was scored" test "$(query "$db" "SELECT sum(value) FROM metric WHERE name = 'differing_items'")" = 0.0
check "hardware counters are a value or NULL with a reason" test "$(query "$db" "SELECT count(*) FROM counter WHERE value IS NULL AND reason = ''")" = 0
check "multiply-adds are counted" test "$(query "$db" "SELECT count(*) > 0 FROM counter WHERE name LIKE '%multiply_adds%' AND value > 0")" = 1
check "stages hold the applied options" test "$(query "$db" "SELECT count(*) > 0 FROM stage WHERE technique = 'rtn' AND options LIKE '%\"bits\":4%'")" = 1
check "requested options are stored as they were written" test "$(query "$db" "SELECT count(*) FROM cell WHERE options LIKE '[{\"technique\":\"finetune\",%\"warmup_frac\":0.06,%}}%]' AND json_array_length(options) BETWEEN 1 AND 2")" = 5
check "yardsticks are stored" test "$(query "$db" 'SELECT count(*) FROM yardstick')" = 3

first=$(query "$db" 'SELECT group_concat(artifact_hash) FROM (SELECT artifact_hash FROM result ORDER BY ordinal)')
"$runexp" small.yaml "${options[@]}" >out.txt 2>err.txt
check "a second run exits 0" test $? -eq 0
check "a second run builds nothing" test "$(query "$db" "SELECT count(*) FROM stage s JOIN run r ON r.id = s.run_id WHERE r.session_id = 2 AND s.cached = 0")" = 0
check "a second run times anew" test "$(query "$db" "SELECT count(*) FROM run WHERE session_id = 2 AND kind = 'time' AND status = 'ok'")" = 15
check "a second run has the same artifacts" test "$(query "$db" 'SELECT group_concat(artifact_hash) FROM (SELECT artifact_hash FROM result ORDER BY ordinal)')" = "$first"

"$runexp" small.yaml --db one/runexp.db --set matrix.threads=1 --set measure.rounds=1 --no-timing "${options[@]}" >out.txt 2>err.txt
OMP_NUM_THREADS=1 taskset -c 0 "$runexp" small.yaml --db two/runexp.db --no-timing "${options[@]}" >out.txt 2>err.txt
check "one CPU gives the same artifacts" test "$(query two/runexp.db 'SELECT group_concat(artifact_hash) FROM (SELECT artifact_hash FROM result ORDER BY ordinal)')" = "$first"

"$runexp" small.yaml --db seeds/runexp.db --set seed=1..2 --set prepare.finetune.steps=2 --no-timing "${options[@]}" >out.txt 2>err.txt
check "a report counts no baseline among its variants" grep -q 'what do 8 variants do to a bert model of 2 layers' seeds/report/small/index.html

# An artifact is a model to begin with, and carries the tokenizer that was trained for it.
artifact=$(query "$db" "SELECT path FROM artifact JOIN result ON artifact_hash = hash WHERE is_baseline LIMIT 1")
sed -e "s,^model:.*,model: {path: $artifact}," -e '/^tokenizer:/d' -e '/^prepare:/,/finetune/d' small.yaml >again.yaml
"$runexp" again.yaml --set tokenizer.max_tokens=32 --db again/runexp.db --no-timing --no-report "${options[@]}" >out.txt 2>err.txt
check "an artifact can be gone on from" test $? -eq 0
check "with the scores that it had" test "$(query again/runexp.db 'SELECT group_concat(metric_value) FROM (SELECT metric_value FROM result ORDER BY ordinal)')" = "$(query "$db" 'SELECT group_concat(metric_value) FROM (SELECT metric_value FROM result ORDER BY ordinal)')"

"$runexp" small.yaml --db jobs/runexp.db --no-timing --no-report --jobs 3 "${options[@]}" >out.txt 2>err.txt
check "three builds at once give the same artifacts" test "$(query jobs/runexp.db 'SELECT group_concat(artifact_hash) FROM (SELECT artifact_hash FROM result ORDER BY ordinal)')" = "$first"

"$runexp" regress small >out.txt 2>err.txt
check "regress without a baseline exits 4" test $? -eq 4
"$runexp" regress accept small >out.txt 2>err.txt
check "results can be accepted" test -s results/baselines/small.json
"$runexp" regress small --rules quality,bytes >out.txt 2>err.txt
check "the same results are no regression" test $? -eq 0
"$runexp" small.yaml --set prepare.finetune.epochs=0.1 --no-timing --no-report "${options[@]}" >out.txt 2>err.txt
"$runexp" regress small --rules quality,bytes >out.txt 2>err.txt
check "a model that was barely trained is a regression" test $? -eq 3

"$runexp" small.yaml --set matrix.pipeline.1.bits=5 "${options[@]}" >out.txt 2>err.txt
check "a bad override exits 2" test $? -eq 2
# Nothing is timed: any build may do that.
"$runexp" small.yaml --db untimed/runexp.db --set measure.rounds=0 --quiet --no-report >out.txt 2>err.txt
check "rounds: 0 asks for no release build" test $? -eq 0
# The first of two experiments has no data: the other runs, has its report, and the exit code tells.
{ sed 's/^experiment:.*/experiment: nothing/; s,{data: .*,{data: nowhere}},' small.yaml; echo ---; cat small.yaml; } >two.yaml
"$runexp" two.yaml --db several/runexp.db --no-timing "${options[@]}" >out.txt 2>err.txt
check "an experiment without data does not end the run" test $? -eq 1
check "an experiment without data is named" grep -q '^runexp: nothing: nowhere/data.noun: ' err.txt
check "the other experiment has its report" grep -qx 'report: several/report/small/index.html' out.txt
"$runexp" report small --db several/runexp.db >out.txt 2>err.txt
check "a report is written beside the database" grep -qx 'several/report/small/index.html' out.txt
"$runexp" plan two.yaml --db several/runexp.db >out.txt 2>err.txt
check "a plan of which one experiment has no data exits 2" test $? -eq 2
check "and shows the other" grep -q '^5 cells, 5 cached' out.txt
# All cells of one of two are skipped: a declared skip is no failure where others ran.
{ sed 's/^experiment:.*/experiment: nothing/; s/^matrix:/&\n  threads: 1000/' small.yaml; echo ---; cat small.yaml; } >two.yaml
"$runexp" two.yaml --db several/runexp.db --no-timing --no-report "${options[@]}" >out.txt 2>err.txt
check "an experiment of skips does not fail the run" test $? -eq 0
"$runexp" small.yaml --db skips/runexp.db --set threads=1000 --no-report "${options[@]}" >out.txt 2>err.txt
check "skips alone exit 2" test $? -eq 2
# Files that may not grow, as on a full disk: an error in one line, and not "nothing ran" once cells did.
for blocks in 50 600; do
    (ulimit -f $blocks && exec "$runexp" small.yaml --db full$blocks/runexp.db --no-report "${options[@]}") >out.txt 2>err.txt
    check "a file limit of $blocks KiB ends with $((blocks == 50 ? 2 : 1))" test $? -eq $((blocks == 50 ? 2 : 1))
    check "and says so in one line" test "$(grep -c full$blocks/runexp.db: err.txt)/$(wc -l <err.txt)" = 1/1
done
"$runexp" small.yaml --set measure.samples=1100 --set 'measure.batch=[65536]' --no-report "${options[@]}" >out.txt 2>err.txt
check "more inputs than a timing run is given end with 1" test $? -eq 1
check "and are named" grep -q '^runexp: small: measure: 1100 samples of 72089600 sequences' err.txt
# What failed stays failed in a session that is continued, and the run says how to try again.
"$runexp" small.yaml --db kept/runexp.db --no-timing --no-report "${options[@]}" >out.txt 2>err.txt
query kept/runexp.db "UPDATE session SET ended_at = NULL; UPDATE run SET status = 'failed'"
"$runexp" small.yaml --db kept/runexp.db --no-timing --no-report "${options[@]}" >out.txt 2>err.txt
check "failures of a continued session are kept" test $? -eq 1
check "and the way out is said" grep -q 'small: 5 of them failed before .* --retry-failed' err.txt
"$runexp" missing.yaml "${options[@]}" >out.txt 2>err.txt
check "a missing config exits 2" test $? -eq 2
"$runexp" rnu small.yaml >out.txt 2>err.txt
check "a mistyped verb exits 2" test $? -eq 2
check "a mistyped verb gets a suggestion" grep -q "did you mean 'run'" err.txt
for verb in list show techniques meters schema doctor export; do
    case $verb in show) word=small ;; *) word= ;; esac
    # shellcheck disable=SC2086
    "$runexp" $verb $word >out.txt 2>err.txt
    check "$verb exits 0" test $? -eq 0
    check "$verb prints something" test -s out.txt
done
exit $failures
