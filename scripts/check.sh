#!/bin/sh
# The gate: what must hold before a change goes in. Each step with its time; the first failure ends it.
set -eu

cd "$(dirname -- "$0")/.."
export RUSTDOCFLAGS="-D warnings"

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
step docs cargo doc --workspace --no-deps --locked
echo "== all steps: $(($(date +%s) - begun)) s"
