#!/bin/bash
# What the harness gives a stage that trains, seen through a technique of this test's own: curves, scores on the way,
# checkpoints over a kill, a shared cache; and what it says when a disk is full or a folder cannot be written to.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
root=$PWD
mkdir "$scratch/coach"
cat >"$scratch/coach/coach.c" <<'EOF'
/* coach: moves every weight a little, step by step, and tells of it as training does. The environment makes it evaluate
 * (COACH_EVALUATE=0: not), die at a step (COACH_KILL) or dawdle (COACH_SLEEP_MS a step). COACH_LOG is appended to. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/random.h"
#include "technique.h"

struct coach_options { int64_t steps; bool text; };
static const struct option options[] = {
    {"steps", OPTION_INTEGER, "60", 1, 1e6, NULL, "steps", "How many.", offsetof(struct coach_options, steps)},
    {"text", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL, "Look at text, not at labels.", offsetof(struct coach_options, text)},
    OPTION_END};
enum { CHECKPOINT_STEPS = 10, EVALUATE_STEPS = 20 };

static long wish(const char *name, long usual) { return getenv(name) ? atol(getenv(name)) : usual; }

static void note(const char *what, long number) {
    FILE *log = getenv("COACH_LOG") ? fopen(getenv("COACH_LOG"), "a") : NULL;
    if (log) { fprintf(log, "%s %ld\n", what, number); fclose(log); }
}

static uint32_t needs_of(const void *o) {
    return NEEDS_GRADIENTS | NEEDS_CACHE | (((const struct coach_options *)o)->text ? NEEDS_UNLABELLED_TEXT : NEEDS_TRAINING_DATA);
}

/* The step and all parameters, one after another. */
static bool checkpoint(struct model *model, const char *folder, size_t *step, bool save) {
    char path[4200], temporary[4210];
    if (!folder) return false;
    snprintf(path, sizeof path, "%s/state", folder);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = fopen(save ? temporary : path, save ? "w" : "r");
    if (!file) return false;
    bool good = (save ? fwrite(step, sizeof *step, 1, file) : fread(step, sizeof *step, 1, file)) == 1;
    for (size_t i = 0; i < model->parameter_count; i++) {
        size_t count = model->parameters[i].rows * model->parameters[i].columns;
        float *value = model->parameters[i].value;
        good &= (save ? fwrite(value, sizeof *value, count, file) : fread(value, sizeof *value, count, file)) == count;
    }
    good &= fclose(file) == 0;
    return save ? good && rename(temporary, path) == 0 : good;
}

static void move(struct model *model, size_t step) {
    for (size_t i = 0; i < model->parameter_count; i++)
        for (size_t k = 0; k < model->parameters[i].rows * model->parameters[i].columns; k++)
            model->parameters[i].value[k] += 0.01f * (float)(random_uniform_at(step, random_stream("coach", i, 0), k) - 0.5);
}

static int apply(struct technique_context *context, void *state, const void *opaque) {
    int status = 0;
    const struct coach_options *o = opaque;
    size_t begin = 0, steps = (size_t)o->steps;
    double value;
    bool higher;
    (void)state;
    if (context->objective != TRAIN_CLASSIFICATION) FAIL(E_STATE, "objective %d", (int)context->objective);
    if (!context->training != o->text || !context->unlabelled == o->text || context->calibration)
        FAIL(E_STATE, "the data that was asked for, and no other, must be there");
    if (!o->text && !context->training->label) FAIL(E_STATE, "no labels");
    if (!context->cache_dir || !context->step || !context->evaluate) FAIL(E_STATE, "something is missing");
    if (checkpoint(context->model, context->checkpoint_dir, &begin, false)) note("resumed", (long)begin);
    if (wish("COACH_EVALUATE", 1) && begin == 0) TRY(context->evaluate(context->host, context->model, &value, &higher));
    for (size_t step = begin + 1; step <= steps; step++) {
        struct train_progress row = {step, steps, 2.0 / (double)step, 1e-3, 0.5, 0.25 * (double)step};
        char text[64];
        move(context->model, step);
        context->step(context->host, &row);
        snprintf(text, sizeof text, "step %zu of %zu", step, steps);
        context->progress(context->host, (double)step / (double)steps, text);
        if (wish("COACH_EVALUATE", 1) && step % EVALUATE_STEPS == 0) {
            TRY(context->evaluate(context->host, context->model, &value, &higher));
            if (!higher) FAIL(E_STATE, "accuracy is better when it is higher");
        }
        if (step % CHECKPOINT_STEPS == 0) checkpoint(context->model, context->checkpoint_dir, &step, true);
        if (wish("COACH_KILL", -1) == (long)step) raise(SIGKILL);
        if (wish("COACH_FAIL", -1) == (long)step) FAIL(E_NUMERIC, "diverged");
        usleep((useconds_t)(1000 * wish("COACH_SLEEP_MS", 0)));
    }
    note("trained", (long)steps);
out:
    return status;
}

const struct technique technique_coach = {.abi = TECHNIQUE_ABI, .version = 1, .name = "coach", .summary = "Trains nothing.", .source = "none",
                                          .needs = NEEDS_GRADIENTS | NEEDS_CACHE | NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT, .needs_of = needs_of,
                                          .options = options, .options_bytes = sizeof(struct coach_options), .apply = apply};
EOF
mode=$(basename "$build")
plugin=$scratch/technique_coach.so
make -C "$root" --no-print-directory MODE="$mode" plugin NAME=coach DIR="$scratch/coach" OUT="$plugin" >"$scratch/make.txt" 2>&1 || { cat "$scratch/make.txt"; not_ok "the plug-in builds"; exit 1; }
cd "$scratch" || exit 1
cat >coach.yaml <<EOF
experiment: coach
model: {family: bert, layers: 1, width: 32, heads: 2, feed_forward: 64, positions: 32}
tokenizer: {type: bpe, vocabulary: 400, max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
prepare: [coach: {steps: 60}]
matrix: {pipeline: [[], [rtn: {bits: 8}]]}
measure: {rounds: 0}
limits: {wall_s: 120, memory_mb: 4096}
EOF
run() { local db=$1; shift; "$runexp" coach.yaml --db "$db" --plugin "$plugin" --no-report "$@" "${options[@]}" >out.txt 2>err.txt; }
artifacts() { query "$1" 'SELECT group_concat(cell || artifact_hash) FROM (SELECT cell, artifact_hash FROM result ORDER BY ordinal)'; }
rows() { query "$1" "SELECT group_concat(step || ' ' || loss || ' ' || rate || ' ' || gradient_norm || ' ' || seconds || ' ' || ifnull(value, '')) FROM (SELECT * FROM training WHERE cell = '$2' ORDER BY step)"; }

# ---- curves and scores
COACH_LOG=whole.log run whole/runexp.db || { cat err.txt; not_ok "a run exits 0"; exit 1; }
db=whole/runexp.db
check "every step is stored, for both cells" test "$(query $db "SELECT group_concat(n) FROM (SELECT count(*) AS n FROM curve GROUP BY run_id)")" = 60,60
check "with its numbers" test "$(query $db "SELECT count(*) FROM curve WHERE step = 4 AND loss = 0.5 AND rate = 1e-3 AND gradient_norm = 0.5 AND seconds = 1")" = 2
check "scores are stored with their steps" test "$(query $db "SELECT group_concat(step) FROM (SELECT step FROM evaluation WHERE metric = 'accuracy' AND run_id = 1 ORDER BY step)")" = 0,20,40,60
check "the last score is that of the saved model" test "$(query $db "SELECT e.value = m.value FROM evaluation e JOIN metric m ON m.run_id = e.run_id AND m.name = 'accuracy' JOIN stage s ON s.id = m.stage_id WHERE e.run_id = 1 AND e.step = 60 AND s.technique = 'coach'")" = 1
check "the stage ran once for both cells" test "$(cat whole.log)" = "trained 60"
check "no checkpoint folder is left" test -z "$(find whole -name '*.checkpoint')"
COACH_EVALUATE=0 run quiet/runexp.db
check "scoring on the way changes no bit of the model" test "$(artifacts quiet/runexp.db)" = "$(artifacts $db)"
check "and nothing is stored that was not asked" test "$(query quiet/runexp.db 'SELECT count(*) FROM evaluation')" = 0

# ---- show, export
"$runexp" show 'coach/baseline' --db $db >show.txt 2>err.txt
best=$(query $db "SELECT 'after step ' || step || ', of 4 scored' FROM evaluation WHERE run_id = 1 ORDER BY value DESC, step LIMIT 1")
check "show gives the curve's ends" test "$(grep -Ec '0 coach (first loss +2|last loss +0.0333)' show.txt)" = 2
check "and its best score" grep -Eq "0 coach best score .*accuracy +$best" show.txt
"$runexp" export --view training --db $db >export.csv 2>err.txt
check "export gives a row per step" test "$(grep -c ',coach,' export.csv)" = 120

# ---- the cache brings the curve along
mkdir again && cp -r whole/cache again/cache
run again/runexp.db
check "a cached stage has its curve" test "$(query again/runexp.db 'SELECT min(cached) FROM stage WHERE ordinal = 0')/$(rows again/runexp.db baseline)" = "1/$(rows $db baseline)"

# ---- killed in the middle
COACH_KILL=35 COACH_LOG=cut.log run cut/runexp.db
check "a run with a killed stage exits 1" test $? -eq 1
reason=$(query cut/runexp.db "SELECT reason FROM run WHERE status = 'crashed' LIMIT 1")
check "it says what it was at" grep -q 'it was at coach: step 35 of 60' <<<"$reason"
check "and that it can go on" grep -q 'run again, it goes on from its last checkpoint' <<<"$reason"
check "the checkpoint is kept" test -s "$(echo cut/cache/*.checkpoint)/state"
COACH_LOG=cut.log run cut/runexp.db
check "the next cell and the next run go on from it" test "$(tr '\n' ' ' <cut.log)" = "resumed 30 resumed 30 trained 60 "
check "to the same model" test "$(artifacts cut/runexp.db)" = "$(artifacts $db)"
check "and the same curve" test "$(rows cut/runexp.db 'rtn bits=8')" = "$(rows $db 'rtn bits=8')"
check "after which the checkpoint is gone" test -z "$(find cut -name '*.checkpoint')"

# ---- too slow, then given more time
COACH_SLEEP_MS=50 run slow/runexp.db --set limits.wall_s=1.5
check "a stage over its time is a timeout" test "$(query slow/runexp.db "SELECT status FROM run WHERE cell_id = 1")" = timeout
check "that can go on" grep -q 'limits.wall_s.*it was at coach: step.*last checkpoint' <<<"$(query slow/runexp.db "SELECT reason FROM run WHERE cell_id = 1")"
COACH_LOG=slow.log run slow/runexp.db
check "and does, with another limit" grep -q '^resumed [1-9]' slow.log
check "to the same model" test "$(artifacts slow/runexp.db)" = "$(artifacts $db)"

# ---- a stage that can never succeed leaves nothing to go on from
COACH_FAIL=35 run fail/runexp.db
check "a diverged stage fails" test "$(query fail/runexp.db "SELECT status || reason FROM run WHERE cell_id = 1")" = "failedcoach: diverged"
check "and leaves no checkpoint" test -z "$(find fail -name '*.checkpoint')"

# ---- data that is asked for alone
run text/runexp.db --set prepare.coach.text=true
check "a stage gets text when its options ask for text" test "$(query text/runexp.db "SELECT count(*) FROM result")" = 2
printf 'label\tsentence\n0\tone bee\n1\ttwo bees\n' >pairs.tsv
sed -e "s|^task:.*|task: {classification: {data: ., train: '', validation: '', test: pairs.tsv}}|" -e 's|^tokenizer:.*|tokenizer: {path: tokenizer.json, max_tokens: 32}|' -e 's/^experiment: .*/experiment: bare/' coach.yaml >bare.yaml
cp whole/cache/tokenizer-*.json tokenizer.json
"$runexp" bare.yaml --db bare/runexp.db --plugin "$plugin" --no-report "${options[@]}" >out.txt 2>err.txt
check "without training data the cell is skipped, with the reason" test "$(query bare/runexp.db "SELECT reason FROM run WHERE cell_id = 1")" = "coach: needs training data, which this task does not have"

# ---- folders and disks
mkdir -p shut/cache && chmod 555 shut/cache
run shut/runexp.db
check "a folder that cannot be written to stops the run" test $? -ne 0
check "before anything runs, in one line" test "$(wc -l <err.txt)/$(grep -c 'shut/cache: the folder is read-only' err.txt)" = 1/1
chmod 755 shut/cache
# Files may not grow beyond 1 MiB, as on a full disk: the database fits, the model of 3 MiB does not.
large=(--set model.width=256 --set model.feed_forward=1024)
(trap '' XFSZ; ulimit -f 1024; run full/runexp.db "${large[@]}")
check "a full disk fails the cell" test "$(query full/runexp.db "SELECT status FROM run WHERE cell_id = 1")" = failed
check "with the file and the reason" grep -Eq 'coach: .*\.(tmp|safetensors).*: .*File too large' <<<"$(query full/runexp.db "SELECT reason FROM run WHERE cell_id = 1")"
check "and no half file" test -z "$(find full -name '*.tmp' -not -path '*.checkpoint/*' -o -name '*.safetensors')"
run full/runexp.db "${large[@]}"
check "with room again it succeeds" test "$(query full/runexp.db "SELECT count(*) FROM result")" = 2
exit $failures
