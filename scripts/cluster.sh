#!/bin/sh
# Builds what is missing, then hands over to the `pagemesh` command, which does everything.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/cluster.sh COMMAND [FLAGS]

  demo                                       four processes share memory: what it does, what it costs here
  run --daemons 4 matmul --n 1024 --verify   four node daemons, four ranks, one result, nothing left
  up --daemons 4 [--hosts FILE] [--dry-run]  daemons that stay
  run PROGRAM ARGS..                         a program on them, or on a private cluster
  status [--json] [--watch]                  nodes, regions, what they did
  logs [-f] [NODE]                           what the daemons say
  down                                       stop them
  doctor                                     what works on this host
  new NAME                                   a crate that uses pagemesh

Any other command of pagemesh works as well; each has --help. CARGO_TARGET_DIR is honoured; PAGEMESH_BUILD=0 uses what is built.
TEXT
}

say() {
    echo "cluster.sh: $*" >&2
}

# Longest silence of a build whose output is not a terminal, in seconds.
silence_max=8

# Says now and then that the build goes on. A crate may take long, and cargo says nothing meanwhile.
tell_time() {
    spent=0
    # The process is looked for, in case it is killed without a chance to end this one.
    while kill -0 $$ 2>/dev/null; do
        # Without our streams: a reader of them is not to wait for a sleep that outlives the build.
        sleep "$silence_max" </dev/null >/dev/null 2>&1
        spent=$((spent + silence_max))
        say "building, $spent s so far"
    done
}

build() {
    [ -x "$target/release/pagemesh" ] || say "building pagemesh and the examples; the first time takes minutes"
    if [ -t 2 ]; then
        cargo build --release --locked -p pagemesh-cli -p examples
        return
    fi
    tell_time &
    ticker=$!
    trap 'kill "$ticker" 2>/dev/null || :' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    built=0
    cargo build --release --locked -p pagemesh-cli -p examples || built=$?
    kill "$ticker" 2>/dev/null || :
    wait "$ticker" 2>/dev/null || :
    trap - EXIT INT TERM
    return "$built"
}

case "${1:-}" in
    -h | --help | help) usage; exit 0 ;;
    "") usage >&2; exit 2 ;;
esac

system=$(uname -s)
if [ "$system" != Linux ]; then
    say "pagemesh runs on Linux only, and this is $system; use a virtual machine or a container with Linux 5.11 or later"
    exit 2
fi

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case "$target" in
    /*) ;;
    *) target=$root/$target ;;
esac
if [ "${PAGEMESH_BUILD:-1}" != 0 ]; then
    if ! command -v cargo >/dev/null 2>&1; then
        say "there is no cargo here: install Rust (https://rustup.rs), or say PAGEMESH_BUILD=0 to use what is built"
        exit 2
    fi
    (cd "$root" && build) || {
        say "the build failed"
        exit 2
    }
elif [ ! -x "$target/release/pagemesh" ]; then
    say "PAGEMESH_BUILD=0, but there is no $target/release/pagemesh; build it with cargo build --release"
    exit 2
fi

exec "$target/release/pagemesh" "$@"
