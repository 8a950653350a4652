#!/bin/bash
# Follow docs/ADDING_A_TECHNIQUE.md literally: its sh blocks are run in a scratch copy of the tree that shares
# the objects already built. Then a plug-in with another ABI must be refused by name.
top=$PWD
build=${BUILD_DIR:-build/release}
if [ ! -x "$build/runexp" ]; then
    echo "skipped: $build/runexp is not built"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/tree"
cp -a Makefile core harness techniques tools docs "$scratch/tree/"
# Objects with their times, so that make compiles only what the guide adds.
mkdir -p "$scratch/tree/$build"
tar -cf - --exclude=./tests --exclude=./obj/tests -C "$build" . | tar -xf - -C "$scratch/tree/$build"
export MODE=${build##*/} MAKEFLAGS=
failed=0
check() { # check NAME CODE: report, showing the log on failure
    if [ "$2" -eq 0 ]; then echo "ok $1"; else
        echo "not ok $1"
        tail -n 20 "$scratch/log"
        failed=1
    fi
}
has() { grep -qF -- "$1" "$scratch/log"; }

awk '/^```sh$/ {on = 1; next} /^```$/ {on = 0} on' docs/ADDING_A_TECHNIQUE.md | sed "s|build/release|$build|g" >"$scratch/guide.sh"
test "$(grep -c . "$scratch/guide.sh")" -ge 12
check guide_has_commands $?
if [ ! -d "${WORDNET:-/usr/share/wordnet}" ]; then
    echo "skipped: the guide plans an experiment on WordNet, which is not installed"
    exit $failed
fi
(cd "$scratch/tree" && bash -e -x "$scratch/guide.sh") >"$scratch/log" 2>&1
check guide_commands_succeed $?
has "noise"
check technique_is_listed $?
has "jitter noise=0.5"
check plan_shows_its_cells $?
test -f "$scratch/tree/$build/technique_jitter.so"
check plugin_is_built $?

# Without the plug-in the technique is unknown again: the in-tree copy is gone.
(cd "$scratch/tree" && "$build/runexp" plan jitter.yaml) >"$scratch/log" 2>&1
test $? -eq 2 && has "unknown technique 'jitter'"
check without_plugin_unknown $?

sed -i 's/\.abi = TECHNIQUE_ABI/.abi = TECHNIQUE_ABI + 5/' "$scratch/elsewhere/jitter/jitter.c"
(cd "$scratch/tree" && make plugin NAME=jitter DIR=../elsewhere/jitter && exec "$build/runexp" plan jitter.yaml --plugin "$build/technique_jitter.so") >"$scratch/log" 2>&1
test $? -eq 2 && has "technique_jitter.so: technique 'jitter' has ABI 10, this runexp needs 5"
check wrong_abi_refused_by_name $?

# A file that is no plug-in, and one without the symbol.
echo "not a library" >"$scratch/tree/technique_text.so"
(cd "$scratch/tree" && exec "$build/runexp" plan jitter.yaml --plugin technique_text.so) >"$scratch/log" 2>&1
test $? -eq 2 && has "technique_text.so: cannot be loaded"
check text_file_refused $?
cp "$scratch/tree/$build/technique_jitter.so" "$scratch/tree/technique_other.so"
(cd "$scratch/tree" && exec "$build/runexp" plan jitter.yaml --plugin technique_other.so) >"$scratch/log" 2>&1
test $? -eq 2 && has "exports no symbol technique_other"
check missing_symbol_refused $?
cd "$top" || exit 1
exit $failed
