#!/bin/bash
# Bad input at the command line: one line on standard error, exit code 2, nothing on standard output and no
# database. The messages themselves are tested row by row in test_bad_input.c; here is the program around them.
runexp=${RUNEXP:-$PWD/build/release/runexp}
if [ ! -x "$runexp" ]; then
    echo "skipped: $runexp is not built"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
failed=0
printf 'experiment: e\nmodel: {family: bert, layers: 1, width: 32, heads: 4}\ntask: {wordnet: {}}\n' >good.yaml
cp good.yaml twin.yaml
{ cat good.yaml; echo '---'; echo '# the second'; cat good.yaml; } >twins.yaml
sed 's/wordnet/wordnut/' good.yaml >task.yaml
{ cat good.yaml; echo 'matrix: {pipeline: [[rtn: {bits: 5}]]}'; } >bits.yaml
{ cat good.yaml; echo 'mesure: {rounds: 3}'; } >key.yaml
{ cat good.yaml; echo 'matrix: {pipeline: []}'; } >empty.yaml
echo 'experiment: [' >broken.yaml
: >nothing.yaml

refused() { # refused NAME WORDS ARGUMENTS...
    local name=$1 words=$2
    shift 2
    "$runexp" "$@" >out 2>err
    local code=$?
    if [ $code -eq 2 ] && grep -qF -- "$words" err && [ ! -s out ] && [ "$(wc -l <err)" -le 2 ] && [ ! -e results ]; then
        echo "ok $name"
    else
        echo "not ok $name (exit $code, expected 2 and: $words)"
        head -n 5 err out
        failed=1
    fi
    rm -rf results
}

for verb in run plan; do
    refused "${verb}_value" "bits.yaml:4:34: rtn: bits must be one of 8, 4 (got 5)" $verb bits.yaml
    refused "${verb}_key" "key.yaml:4:1: unknown key 'mesure'; did you mean 'measure'?" $verb key.yaml
    refused "${verb}_task" "task.yaml:3:8: unknown task 'wordnut'" $verb task.yaml
    refused "${verb}_empty_matrix" "empty.yaml:4:20: " $verb empty.yaml
    refused "${verb}_yaml" "broken.yaml:2:1: not valid YAML" $verb broken.yaml
    refused "${verb}_empty_file" "nothing.yaml:1:1: the file is empty" $verb nothing.yaml
    refused "${verb}_no_file" "nowhere.yaml: cannot be read" $verb nowhere.yaml
    refused "${verb}_twins" "twin.yaml:1:13: the experiment 'e' is also at good.yaml:1:13; rename one" $verb good.yaml twin.yaml
    refused "${verb}_twins_of_a_file" "twins.yaml:6:13: the experiment 'e' is also at twins.yaml:1:13; rename one" $verb twins.yaml
    refused "${verb}_given_twice" "good.yaml is given twice" $verb good.yaml good.yaml
    refused "${verb}_set_value" "--set measure.rounds: measure: rounds must be" $verb good.yaml --set measure.rounds=x
    refused "${verb}_set_key" "did you mean 'rounds'?" $verb good.yaml --set rouds=3
    refused "${verb}_plugin" "no such plug-in" $verb good.yaml --plugin ./technique_none.so
done
# The last of several files is bad: the good ones before it have not run.
refused run_good_and_bad "bits.yaml:4:34" good.yaml bits.yaml
exit $failed
