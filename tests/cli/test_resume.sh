#!/bin/bash
# kill -9 of the whole process group at random moments, then a plain re-run: every cell once, artifacts as in an
# undisturbed run. KILLS sets how often (3 here; make test-long uses 20).
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
cd "$scratch" || exit 1
experiment small.yaml
kills=${KILLS:-3}
artifacts() { query "$1" 'SELECT group_concat(cell || artifact_hash) FROM (SELECT cell, artifact_hash FROM result ORDER BY ordinal)'; }

start=$(date +%s%N)
"$runexp" small.yaml --db whole/runexp.db --no-report "${options[@]}" 2>err.txt || { cat err.txt; not_ok "undisturbed run"; exit 1; }
whole_ms=$((($(date +%s%N) - start) / 1000000))
want=$(artifacts whole/runexp.db)

RANDOM=${SEED:-7}
bad=0
for i in $(seq "$kills"); do
    db=cut$i/runexp.db
    setsid "$runexp" small.yaml --db "$db" --no-report "${options[@]}" 2>/dev/null &
    pid=$!
    ms=$((RANDOM % whole_ms))
    sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
    kill -9 -- -$pid 2>/dev/null
    wait $pid 2>/dev/null
    if ! "$runexp" small.yaml --db "$db" --no-report "${options[@]}" 2>err.txt; then bad=1; echo "after $ms ms: the second run failed: $(tail -n 1 err.txt)"; fi
    [ "$(artifacts "$db")" = "$want" ] || { bad=1; echo "after $ms ms: other artifacts"; }
    [ "$(query "$db" 'SELECT count(*) FROM result')" = 5 ] || { bad=1; echo "after $ms ms: not every cell is present once"; }
    [ "$(query "$db" "SELECT count(*) FROM (SELECT 1 FROM run GROUP BY cell_id, session_id, kind, round HAVING count(*) > 1)")" = 0 ] || { bad=1; echo "after $ms ms: a run is there twice"; }
    [ "$(query "$db" "PRAGMA integrity_check; PRAGMA foreign_key_check")" = ok ] || { bad=1; echo "after $ms ms: the database is damaged"; }
    [ -z "$(find "cut$i" -name '*.tmp*')" ] || { bad=1; echo "after $ms ms: leftovers: $(find "cut$i" -name '*.tmp*')"; }
    rm -rf "cut$i"
done
check "killed $kills times at random, every cell once and the same bytes" test $bad -eq 0

# Interrupted politely, once the first of many runs is stored: exit 130, and the same session is continued.
"$runexp" small.yaml --db int/runexp.db --no-report "${options[@]}" 2>/dev/null &
pid=$!
while kill -0 $pid 2>/dev/null; do
    stored=$(sqlite3 -readonly int/runexp.db 'SELECT count(*) FROM run' 2>/dev/null)
    if [ "${stored:-0}" -ge 1 ]; then break; fi
    sleep 0.01
done
kill -INT $pid
wait $pid
check "an interrupt exits 130" test $? -eq 130
"$runexp" small.yaml --db int/runexp.db --no-report "${options[@]}" 2>/dev/null
check "the interrupted session is continued" test "$(query int/runexp.db 'SELECT count(*) FROM session WHERE ended_at IS NOT NULL')/$(query int/runexp.db 'SELECT count(*) FROM session')" = 1/1

# Interrupted in the second of two experiments: the first has its report.
{ sed 's/^experiment:.*/experiment: first/; s/rounds: 3/rounds: 0/' small.yaml; echo ---; sed 's/epochs: 5/epochs: 1000/' small.yaml; } >both.yaml
"$runexp" both.yaml --db both/runexp.db "${options[@]}" >both.txt 2>/dev/null &
pid=$!
for _ in $(seq 600); do
    if ! kill -0 $pid 2>/dev/null || [ -s both.txt ]; then break; fi
    sleep 0.1
done
kill -INT $pid
wait $pid
check "an interrupt in the second experiment exits 130" test $? -eq 130
check "the first experiment has its report" test "$(cat both.txt)" = "report: both/report/first/index.html" -a -s both/report/first/index.html

# The same, the second cut short: gone on with, the first is done; its results stay, nothing is timed again. A command
# that nothing interrupted, another command, an experiment with a failed cell, and --fresh time everything anew.
sed 's/epochs: [0-9]*/epochs: 1/; s/rounds: [03]/rounds: 1/' both.yaml >pair.yaml
pair() { "$runexp" pair.yaml --db pair/runexp.db --no-report "${options[@]}" "$@" 2>err.txt; }
sessions() { query pair/runexp.db "SELECT count(*) FROM session s JOIN experiment e ON e.id = s.experiment_id WHERE e.name = '$1'"; }
cut() { query pair/runexp.db "UPDATE session SET ended_at = NULL WHERE id = (SELECT max(id) FROM session)"; }
pair
firsts() { query pair/runexp.db "SELECT uuid FROM run r JOIN session s ON s.id = r.session_id JOIN experiment e ON e.id = s.experiment_id WHERE e.name = 'first' ORDER BY uuid"; }
firsts >firsts.txt
cut
pair
check "an experiment that had ended before the interrupt is done" test $? -eq 0 -a "$(sessions first),$(sessions small)" = 1,1
check "its runs stay" cmp -s firsts.txt <(firsts)
check "and that is said" grep -q '^first: it had ended before' err.txt
check "its cells count" grep -q '^first: 5 cells: 5 ok' err.txt
pair
check "after an end both are timed anew" test "$(sessions first),$(sessions small)" = 2,2
cut
pair --jobs 1
check "another command times the first anew" test "$(sessions first),$(sessions small)" = 3,2
cut
pair --jobs 1 --fresh
check "so does --fresh" test "$(sessions first),$(sessions small)" = 4,3
pair
cut
query pair/runexp.db "UPDATE run SET status = 'failed' WHERE id = (SELECT max(r.id) FROM run r JOIN session s ON s.id = r.session_id JOIN experiment e ON e.id = s.experiment_id WHERE e.name = 'first')"
pair
check "one with a failed cell is run again" test "$(sessions first),$(sessions small)" = 6,4
# Nor is one done, or gone on with, whose model was changed in between: its cells are others.
"$build/tests/helpers/small_pretrained_main" small
for name in first small; do
    printf -- '---\nexperiment: %s\nmodel: {path: small/encoder}\nmeasure: {rounds: 0}\ntask: {similarity: {data: small, test: pairs.tsv, validation: "", first: first, second: second, header: []}}\n' $name
done >pair.yaml
rm -r pair
pair
cut
pair
check "an experiment of a pretrained model is done" test "$(sessions first),$(sessions small)" = 1,1
cut
echo '{}' >small/encoder/another.json
pair
check "those whose model was changed are run again" test $? -eq 0 -a "$(sessions first),$(sessions small)" = 2,2
check "and what came of the other model is no result" test "$(query pair/runexp.db "SELECT count(*) FROM result")" = 2

# A session under way whose files are tampered with: one artifact is gone, one was changed. Both are built and timed again.
runs() { query "$1" "SELECT uuid FROM run WHERE status = 'ok' ORDER BY uuid"; }
artifact() { query int/runexp.db "SELECT a.path FROM artifact a JOIN run r ON r.artifact_id = a.id JOIN cell c ON c.id = r.cell_id WHERE c.label = '$1'"; }
before=$(artifacts int/runexp.db)
runs int/runexp.db >runs.txt
query int/runexp.db 'UPDATE session SET ended_at = NULL'
rm "$(artifact 'rtn bits=8')"
printf 'damage' | dd of="$(artifact null)" bs=1 seek=20000 conv=notrunc 2>/dev/null
"$runexp" small.yaml --db int/runexp.db --no-report "${options[@]}" 2>err.txt
check "a session whose artifacts are gone or damaged is continued" test $? -eq 0
check "with the same artifacts" test "$(artifacts int/runexp.db)" = "$before"
check "and what was lost was built and timed again" test "$(runs int/runexp.db | wc -l)/$(runs int/runexp.db | comm -12 - runs.txt | wc -l)" = 20/12
runs int/runexp.db >runs.txt

# The same from another folder, to which results/ was moved: nothing is built or timed again.
query int/runexp.db 'UPDATE session SET ended_at = NULL'
mkdir moved && mv int moved/results # stored paths begin with int/
(cd moved && "$runexp" ../small.yaml --db results/runexp.db --no-report "${options[@]}" 2>../err.txt)
check "a session is continued where its folder was moved" test $? -eq 0
check "and no run repeated" cmp -s runs.txt <(runs moved/results/runexp.db)

# A later session has overtaken one that was interrupted: what runs now is new, and is what reports show.
query moved/results/runexp.db 'UPDATE session SET ended_at = NULL'
for fresh in --fresh --quiet; do
    (cd moved && "$runexp" ../small.yaml --db results/runexp.db --no-report $fresh "${options[@]}" 2>../err.txt)
done
check "a session that was overtaken is not continued" test "$(query moved/results/runexp.db 'SELECT group_concat(ended_at IS NOT NULL) FROM session')" = 0,1,1

# Damaged cache entries are found out and made again: cells never come from them.
damage() {
    rm -rf cached && cp -r whole cached && rm -r cached/runexp.db* cached/artifacts
    model=$(find cached/cache -name '*.safetensors')
    case $1 in
    model-cut) truncate -s 5000 "$model" ;;
    model-changed) printf 'damage' | dd of="$model" bs=1 seek=20000 conv=notrunc 2>/dev/null ;;
    stages-cut) truncate -s 100 "${model%.safetensors}.json" ;;
    stages-gone) rm "${model%.safetensors}.json" ;;
    tokenizer-cut) truncate -s 100 cached/cache/tokenizer-*.json ;;
    esac
    "$runexp" small.yaml --db cached/runexp.db --no-report --no-timing "${options[@]}" 2>err.txt
    check "a damaged cache ($1) costs no cell" test $? -eq 0
    check "nor changes one" test "$(artifacts cached/runexp.db)" = "$want"
    [ "$1" = stages-gone ] || check "and is named" grep -q 'made again' err.txt
}
for how in model-cut model-changed stages-cut stages-gone tokenizer-cut; do damage $how; done

# Two runs into two databases of one folder: neither takes the other's unfinished files for leftovers, and the last one out
# removes those of the dead.
sed 's/epochs: 5/epochs: 1/; s/^matrix:/&\n  seed: 1..8/' small.yaml >seeds.yaml
"$runexp" seeds.yaml --db shared/a.db --no-report --no-timing "${options[@]}" 2>err.txt &
pid=$!
while kill -0 $pid 2>/dev/null; do
    "$runexp" small.yaml --db shared/b.db --no-report --no-timing "${options[@]}" 2>/dev/null
done
touch shared/artifacts/of-the-dead.tmp
wait $pid
check "two runs share a folder" test $? -eq 0
"$runexp" small.yaml --db shared/b.db --no-report --no-timing "${options[@]}" 2>/dev/null
check "and leave nothing half-written" test -z "$(find shared -name '*.tmp*')"
exit $failures
