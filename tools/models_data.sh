#!/bin/bash
# Make, from texts at hand, the files that configs/models.yaml asks and no public folder has here:
#   DIR/glosses-train.json, DIR/glosses-dev.json   questions in SQuAD's form from WordNet's glosses (Debian: wordnet-base):
#       the context is four entries "word: gloss.", the question "What does WORD mean?", the answer that word's gloss
#   DIR/stories.jsonl      the first two sentences of paragraphs of TinyStories' validation text as prompts, the third as reference
# usage: tools/models_data.sh SHARED_DATA DIR [WORDNET]
set -eu
if [ $# -lt 2 ]; then echo "usage: tools/models_data.sh SHARED_DATA DIR [WORDNET]" >&2; exit 2; fi
data=$1 out=$2 wordnet=${3:-/usr/share/wordnet}
mkdir -p "$out"
for file in "$wordnet/data.noun" "$data/tinystories/valid.txt"; do
    if [ ! -r "$file" ]; then echo "models_data: $file is not there" >&2; exit 2; fi
done

# Every 32nd noun of one word with a gloss of 3 to 14 words without quotes, four to a context.
glosses() { # SKIP COUNT
    LC_ALL=C awk -v skip="$1" -v count="$2" '
        function close_context(  i) {
            printf "%s{\"paragraphs\": [{\"context\": \"%s\", \"qas\": [", made++ ? ",\n" : "", context
            for (i = 0; i < held; i++)
                printf "%s{\"id\": \"%d\", \"question\": \"What does %s mean?\", \"answers\": [{\"text\": \"%s\", \"answer_start\": %d}]}", i ? ", " : "", ++id, word[i], gloss[i], start[i]
            printf "]}]}"
            context = ""; held = 0
        }
        BEGIN { held = 0; id = 0; printf "{\"version\": \"1.1\", \"data\": [\n" }
        /^  / { next }
        {
            at = index($0, "| "); text = substr($0, at + 2); sub(/;.*/, "", text); sub(/ +$/, "", text)
            if (!at || $5 !~ /^[a-z]+$/ || text !~ /^[a-z ,]+$/) next
            n = split(text, words, " ")
            if (n < 3 || n > 14 || kept++ % 32 != skip) next
            if (id + held >= count) exit
            word[held] = $5; gloss[held] = text; start[held] = length(context) + length($5) + 2
            context = context $5 ": " text ". "
            if (++held == 4) close_context()
        }
        END { if (held) close_context(); printf "\n]}\n" }' "$wordnet/data.noun"
}
glosses 0 800 >"$out/glosses-train.json"
glosses 1 200 >"$out/glosses-dev.json"

# Paragraphs are parted by blank lines.
LC_ALL=C awk '
    BEGIN { RS = "" }
    made < 100 {
        gsub(/[\n\r\t]+/, " "); gsub(/^ +| +$/, ""); gsub(/[^ -~]/, ""); gsub(/["\\]/, "")
        n = split($0, s, /\. /)
        if (n < 4 || length(s[1]) + length(s[2]) > 240 || !length(s[3])) next
        printf "{\"prompt\": \"%s. %s.\", \"reference\": \"%s.\"}\n", s[1], s[2], s[3]; made++
    }' "$data/tinystories/valid.txt" >"$out/stories.jsonl"
echo "$out: $(wc -c <"$out/glosses-train.json"), $(wc -c <"$out/glosses-dev.json") bytes of questions, $(wc -l <"$out/stories.jsonl") prompts"
