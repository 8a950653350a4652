#!/bin/bash
# The peers' Python environment for `make bench-peers`: build/peers, or PEERS_VENV=DIR to use one that exists.
# Nothing of it is linked or shipped. llama.cpp is compiled from its source package (cmake, g++; several minutes).
set -eu
cd "$(dirname "$0")/.."
venv=${PEERS_VENV:-build/peers}

# Every pinned package is there in its version.
complete() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" - tests/peers/requirements.txt <<'EOF'
import sys
from importlib.metadata import PackageNotFoundError, version
missing = []
for line in open(sys.argv[1]):
    name, _, pinned = line.partition("#")[0].strip().partition("==")
    try:
        if name and version(name).partition("+")[0] != pinned:
            missing.append(f"{name} {version(name)} (want {pinned})")
    except PackageNotFoundError:
        missing.append(name)
print("\n".join("peers: missing: " + m for m in missing), end="\n" if missing else "", file=sys.stderr)
sys.exit(bool(missing))
EOF
}

if complete; then
    echo "peers: $venv is complete"
    exit 0
fi
if [ -n "${PEERS_VENV:-}" ]; then
    echo "peers: $PEERS_VENV lacks packages of tests/peers/requirements.txt" >&2
    exit 1
fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || { echo "peers: apt-get install python3-venv" >&2; exit 1; }
"$venv/bin/python" -m pip install --disable-pip-version-check --requirement tests/peers/requirements.txt || {
    echo "peers: pip could not install them; llama-cpp-python also needs g++, cmake or a network to fetch it" >&2
    exit 1
}
complete && echo "peers: $venv"
