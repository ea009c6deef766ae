#!/bin/sh
# Makes a crate with `pagemesh new` outside the repository, builds it without a network, and runs its test.
# Not 0: something of that failed. The crates that it needs must have been fetched by a build of the repository.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case "$target" in
    /*) ;;
    *) target=$root/$target ;;
esac

cargo build --locked --manifest-path "$root/Cargo.toml" --target-dir "$target" -p pagemesh-cli
pagemesh=$target/debug/pagemesh

place=$(mktemp -d "${TMPDIR:-/tmp}/pagemesh-new-crate.XXXXXX")
trap 'rm -rf -- "$place"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$place"
"$pagemesh" new my-program
# The versions that the repository is tested with, which are here.
cp "$root/Cargo.lock" my-program/Cargo.lock
cd my-program
# With the workspace's target directory and its kind of debug information, what both need is built once.
CARGO_TARGET_DIR=$target
CARGO_PROFILE_DEV_DEBUG=line-tables-only
export CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG
cargo build --offline
PAGEMESH_BIN=$pagemesh cargo test --offline
echo "new crate: alone"
"$CARGO_TARGET_DIR/debug/my-program"
echo "new crate: without the command, its test says so in one line"
if PAGEMESH_BIN=$place/missing cargo test --offline >"$place/said" 2>&1; then
    echo "new-crate-check.sh: the test passed without a pagemesh command" >&2
    exit 1
fi
grep "cannot run .*missing.*: put the pagemesh command into PATH, or its path into PAGEMESH_BIN" "$place/said"
