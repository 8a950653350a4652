#!/bin/bash
# Plug-ins that abort, hang, eat memory, fail or refuse: each costs its own cell, is recorded as what it was, and the other
# cells' results stand. The run exits 1.
export MEMORY_MB=1024
# shellcheck source=../cli/common.sh
. "$(dirname "$0")/../cli/common.sh"
root=$PWD
mkdir "$scratch/bad"
cat >"$scratch/bad/bad.c" <<'EOF'
/* bad: misbehaves in the way its option says. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "technique.h"

struct bad_options { const char *how; };
static const struct option options[] = {
    {"how", OPTION_CHOICE, "abort", 0, 0, "abort|hang|memory|fail|scribble|refuse|silent|unknown|nameless|grade", NULL, "How to misbehave.", offsetof(struct bad_options, how)},
    OPTION_END};

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    (void)context;
    if (strcmp(((struct bad_options *)opaque)->how, "refuse") == 0) FAIL(E_UNSUPPORTED, "this machine has no abacus");
out:
    return status;
}

static int apply(struct technique_context *context, void *state, const void *opaque) {
    int status = 0;
    const char *how = ((const struct bad_options *)opaque)->how;
    (void)state;
    if (strcmp(how, "abort") == 0) abort();
    if (strcmp(how, "hang") == 0) for (;;) pause();
    if (strcmp(how, "memory") == 0)
        for (;;) {
            void *block;
            TRY(memory_take(&block, 64, 1 << 20));
        }
    if (strcmp(how, "scribble") == 0)
        for (int fd = 3; fd < 64; fd++)
            if (write(fd, "garbage garbage garbage garbage garbage", 39) < 0) continue;
    if (strcmp(how, "silent") == 0) status = E_SHAPE;
    if (strcmp(how, "unknown") == 0) status = -999;
    if (strcmp(how, "nameless") == 0) context->metric(context->host, NULL, NULL, 1);
    if (strcmp(how, "grade") == 0) context->metric(context->host, "accuracy", "frac", 0.99);
    if (strcmp(how, "fail") == 0) FAIL(E_NUMERIC, "the numbers are wrong");
out:
    return status;
}

const struct technique technique_bad = {.abi = TECHNIQUE_ABI, .version = 1, .name = "bad", .summary = "Misbehaves.", .source = "none",
                                        .options = options, .options_bytes = sizeof(struct bad_options), .probe = probe, .apply = apply};
EOF
mode=$(basename "$build")
plugin=$scratch/technique_bad.so
make -C "$root" --no-print-directory MODE="$mode" plugin NAME=bad DIR="$scratch/bad" OUT="$plugin" >"$scratch/make.txt" 2>&1 || { cat "$scratch/make.txt"; not_ok "the plug-in builds"; exit 1; }
cd "$scratch" || exit 1
hows="abort, hang, fail, scribble, refuse, silent, unknown, nameless, grade"
[ "$mode" = release ] && hows="$hows, memory"
experiment small.yaml
sed -i -e "s/    - \[rtn: .*/    - [rtn: {bits: 8}]\n    - [bad: {how: [$hows]}]/" -e '/magnitude/d' -e 's/wall_s: 120/wall_s: 20/' -e 's/epochs: 5/epochs: 1/' small.yaml
"$runexp" small.yaml --plugin "$plugin" "${options[@]}" >out.txt 2>err.txt
check "a run with failures exits 1" test $? -eq 1
db=results/runexp.db
status() { query $db "SELECT status FROM run r JOIN cell c ON c.id = r.cell_id WHERE r.kind = 'build' AND c.label LIKE '%$1%'"; }
reason() { query $db "SELECT reason FROM run r JOIN cell c ON c.id = r.cell_id WHERE r.kind = 'build' AND c.label LIKE '%$1%'"; }
check "abort is a crash" test "$(status abort)" = crashed
check "abort's signal is stored" test "$(query $db "SELECT signal FROM run WHERE status = 'crashed' AND reason LIKE '%bort%' LIMIT 1")" = 6
check "hang is a timeout" test "$(status hang)" = timeout
check "the wall-time limit is named" grep -q 'limits.wall_s' <<<"$(reason hang)"
check "failure is failed, with its words" test "$(status fail)/$(reason fail)" = "failed/bad: the numbers are wrong"
check "scribbling on descriptors fails that cell alone" test "$(status scribble)" != ok
check "failure without words says so" test "$(status silent)/$(reason silent)" = "failed/bad: ended with code -5 and no message"
check "as does a code that there is not" test "$(status unknown)/$(reason unknown)" = "failed/bad: ended with code -999 and no message"
check "a metric without a name fails that cell alone" test "$(status nameless)/$(reason nameless)" = "failed/bad: told of a metric without a name"
graded() { query $db "SELECT count(*) FROM metric m JOIN stage t ON t.id = m.stage_id JOIN run r ON r.id = m.run_id JOIN cell c ON c.id = r.cell_id WHERE c.label LIKE '%grade%' AND t.technique = 'bad' AND m.name = '$1' AND m.value = 0.99"; }
check "a technique does not grade itself" test "$(graded accuracy)/$(graded 'bad: accuracy')" = 0/1
check "refusal is skipped, with its reason" test "$(status refuse)/$(reason refuse)" = "skipped/bad: this machine has no abacus"
if [ "$mode" = release ]; then check "exhausted memory is oom" test "$(status memory)" = oom; fi
check "the other cells are results" test "$(query $db 'SELECT count(*) FROM result')" = 4
check "the page lists the failures" grep -q 'no abacus' results/report/small/index.html
"$runexp" small.yaml "${options[@]}" >out.txt 2>err.txt
check "without the plug-in the config is refused" test $? -eq 2
check "and the technique named" grep -q "bad" err.txt
exit $failures
