#!/bin/sh
# Builds what is missing, then hands over to the `pagemesh` command, which does everything.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/cluster.sh COMMAND [FLAGS]

  run --daemons 4 matmul --n 1024 --verify   four node daemons, four ranks, one result, nothing left
  up --daemons 4 [--hosts FILE] [--dry-run]  daemons that stay
  run PROGRAM ARGS..                       a program on them, or on a private cluster
  status [--json] [--watch]                nodes, regions, what they did
  logs [-f] [NODE]                         what the daemons say
  down                                     stop them
  doctor                                   what works on this host

Any other command of pagemesh works as well; each has --help. CARGO_TARGET_DIR is honoured; PAGEMESH_BUILD=0 uses what is built.
TEXT
}

case "${1:-}" in
    -h | --help | help) usage; exit 0 ;;
    "") usage >&2; exit 2 ;;
esac

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
if [ "${PAGEMESH_BUILD:-1}" != 0 ]; then
    # Cargo says something only when there is something to build.
    (cd "$root" && cargo build --release --quiet --locked -p pagemesh-cli -p examples) || {
        echo "cluster.sh: the build failed" >&2
        exit 2
    }
fi
case "$target" in
    /*) ;;
    *) target=$root/$target ;;
esac

exec "$target/release/pagemesh" "$@"
