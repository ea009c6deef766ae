#!/bin/sh
# The gate: what must hold before a change goes in. Each step with its time; the first failure ends it.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/check.sh [--long]

Runs the gate: format, lints, build, tests, mutations, dependencies, documentation. About ten minutes on two cores.
  --long   the same with everything that a short run only samples: more seeds, larger searches, longer races
           and attacks. About an hour on two cores, hardly anything of it without load on both.
TEXT
}

long=
case "${1:-}" in
    "") ;;
    --long) long=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

cd "$(dirname -- "$0")/.."
# A module's documentation is written for readers of its code: it may link to what is private.
export RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links"
# Tests read it (tests/src/lib.rs: `long`); nothing else does.
if [ -n "$long" ]; then export LONG=1; fi

step() {
    name=$1
    shift
    echo "== $name: $*"
    started=$(date +%s)
    "$@"
    echo "== $name: $(($(date +%s) - started)) s"
}

begun=$(date +%s)
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
step build cargo build --workspace --all-targets --locked
step tests cargo test --workspace --locked
# Apart from the tests: features unify over a build, and no other crate may get a core that misbehaves on demand.
step mutations cargo test -p sim --features planted --test plants --locked
step dependencies scripts/dependencies.sh
step documentation cargo doc --workspace --no-deps --document-private-items --locked
if [ -n "$long" ]; then
    # The rules that keep a starved member alive, each switched off: the test of them has to see a death.
    step process-mutations cargo test -p system-tests --features planted --test hosts --locked broken
    step seeds cargo run --release -p sim --locked -- --seeds 100000
    step machine-seeds cargo run --release -p sim --locked -- --rig machines --seeds 100000
    step search cargo run --release -p sim --locked -- --explore
    step new-crate scripts/new-crate-check.sh
fi
echo "== all steps: $(($(date +%s) - begun)) s"
