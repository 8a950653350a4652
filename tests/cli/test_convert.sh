#!/bin/bash
# Models as Hugging Face folders: pretrained ones come out as they were, a cell's artifact goes on with the same scores, and
# what cannot be written is refused.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
"$build/tests/helpers/small_pretrained_main" "$scratch/small" || exit 1
cd "$scratch" || exit 1
db=$scratch/results/runexp.db

"$runexp" convert small/encoder copy/of/encoder >out.txt 2>err.txt
check "convert exits 0" test $? -eq 0
check "and says where" test "$(cat out.txt)" = copy/of/encoder
check "the tensors are the same" cmp small/encoder/model.safetensors copy/of/encoder/model.safetensors
for file in small/encoder/*; do
    case $file in */tok* | */vocab*) check "${file##*/} comes along" cmp "$file" "copy/of/encoder/${file##*/}" ;; esac
done
check "without a word of complaint" test ! -s err.txt

cat >small.yaml <<EOF
experiment: small
model: {family: bert, layers: 2, width: 64, heads: 2, feed_forward: 128, positions: 32}
tokenizer: {type: bpe, vocabulary: 400, lower_case: true, max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
prepare: [finetune: {epochs: 5, batch: 16, rate: 0.002}]
matrix: {pipeline: [[], [rtn: {bits: 8}]]}
measure: {rounds: 0}
EOF
"$runexp" small.yaml --no-report "${options[@]}" >out.txt 2>err.txt
check "a small experiment runs" test $? -eq 0
"$runexp" convert small/baseline plain --db "$db" >out.txt 2>err.txt
check "a cell is converted" test $? -eq 0 -a -s plain/tokenizer.json
"$runexp" convert "rtn bits=8" packed --db "$db" >out.txt 2>err.txt
check "packed layers are refused" test $? -eq 2 -a ! -e packed
check "by how many they are" grep -q ": 12 layers are packed, which Hugging Face's files cannot say; --unpack writes their values" err.txt
"$runexp" convert "rtn bits=8" unpacked --unpack --db "$db" >out.txt 2>err.txt
check "and unpacked on demand" test $? -eq 0
for folder in plain unpacked; do
    cat >"$folder.yaml" <<EOF
experiment: $folder
model: {path: $folder}
tokenizer: {max_tokens: 32}
task: {wordnet: {data: $scratch/wordnet}}
measure: {rounds: 0}
EOF
    "$runexp" "$folder.yaml" --no-report "${options[@]}" >out.txt 2>err.txt
    check "the folder $folder is a model to begin from" test $? -eq 0
done
accuracy() { query "$db" "SELECT m.value FROM metric m JOIN result r ON r.run_id = m.run_id WHERE r.experiment = '$1' AND r.cell LIKE '$2' AND m.name = 'accuracy' AND m.stage_id IS NULL"; }
check "with the scores of its cell" test -n "$(accuracy small baseline)" -a "$(accuracy plain baseline)" = "$(accuracy small baseline)"
check "of packed layers nearly so" test "$(query "$db" "SELECT abs($(accuracy unpacked baseline) - $(accuracy small 'rtn%')) < 0.05")" = 1

refused() { # TEXT ARGUMENTS…
    local text=$1
    shift
    "$runexp" convert "$@" --db "$db" >out.txt 2>err.txt
    check "$text" test $? -eq 2 -a "$(grep -c "^runexp: .*$text" err.txt)" = 1 -a "$(wc -l <err.txt)" = 1
}
refused "written over itself" plain plain
refused "no file or folder nothing; as a cell" nothing other
refused "tokenizer: small.yaml is no folder" plain other --tokenizer small.yaml
refused "holds no file of a tokenizer" plain other --tokenizer wordnet
refused "a model (a path, or a cell) and a folder" plain
cp small/encoder/model.safetensors bare.safetensors
refused "not a model file" bare.safetensors other
exit $failures
