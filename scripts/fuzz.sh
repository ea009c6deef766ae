#!/bin/sh
# Runs the fuzz targets, each for a while; stops at the first that finds something.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/fuzz.sh [-s SECONDS] [-p RULE] [TARGET..]

Builds the targets of fuzz/ with coverage and runs each for 60 s, or for SECONDS. They begin with fuzz/seeds; what
they find interesting is kept in fuzz/target/corpus, at most 4 KiB each; a finding is written to fuzz/target/found.
  -p RULE  with this fault planted in the library (docs/protocol.md lists them): the target must find it
TEXT
}

seconds=60
rule=
while getopts s:p:h option; do
    case "$option" in
        s) seconds=$OPTARG ;;
        p) rule=$OPTARG ;;
        h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))

cd "$(dirname -- "$0")/../fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
export RUSTFLAGS="$RUSTFLAGS -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1"
cargo build --release --locked --target "$host" ${rule:+--features planted}
if [ $# -eq 0 ]; then
    set -- batches control datagram descriptions handshake machine rpc_frames rpcgen_parser session
fi
for target in "$@"; do
    mkdir -p "target/corpus/$target" "seeds/$target" target/found
    echo "== $target"
    PLANTED_RULE=$rule "target/$host/release/$target" -max_total_time="$seconds" -max_len=4096 -len_control=0 -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="target/found/$target-" "target/corpus/$target" "seeds/$target"
done
