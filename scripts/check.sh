#!/bin/sh
# The gate: what must hold before a change goes in. Each step with its time; the first failure ends it.
set -eu

cd "$(dirname -- "$0")/.."
# A module's documentation is written for who reads its code: it may link to what is private.
export RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links"

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
step tests cargo test --workspace --locked
# Apart from the tests: features unify over a build, and no other crate may get a core that misbehaves on demand.
step plants cargo test -p sim --features planted --test plants --locked
step docs cargo doc --workspace --no-deps --document-private-items --locked
echo "== all steps: $(($(date +%s) - begun)) s"
