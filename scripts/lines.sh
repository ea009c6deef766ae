#!/bin/sh
# Lines of code of the middle of the library, at one revision or at several: what a change costs or saves.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/lines.sh [REVISION ..]

Counts lines of code: no blank lines, no comments, no tests, nothing that a generator wrote. Each REVISION of git
is a column; without one it is HEAD. A path that a revision does not have counts as 0.
TEXT
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac
cd "$(dirname -- "$0")/.."
[ $# -gt 0 ] || set -- HEAD
for revision in "$@"; do git rev-parse --verify --quiet "$revision^{commit}" >/dev/null || {
    echo "lines.sh: git knows no revision \`$revision\`" >&2
    exit 2
}; done

# The files of each part: a module and its folder, or files by name.
paths() {
    src=dsm/src
    case $1 in
        node) echo "$src/node.rs $src/node" ;;
        rpc-shell) for file in endpoint transport signal section port callers local workers; do printf '%s ' "$src/rpc/$file.rs"; done ;;
        client) echo "$src/guest.rs $src/guest $src/client.rs" ;;
        machine) echo "$src/machine.rs $src/machine" ;;
        runtime) echo "$src/runtime.rs $src/runtime $src/op.rs" ;;
    esac
}

count() {
    lines=0
    # shellcheck disable=SC2046 # The paths are words without blanks.
    for file in $(git ls-tree -r --name-only "$1" -- $(paths "$2") | grep '\.rs$'); do
        case $file in */tests/* | */tests.rs | */test_rig.rs) continue ;; esac
        lines=$((lines + $(git show "$1:$file" | code)))
    done
    echo "$lines"
}

# A comment that ends a line of code leaves the line code. The tests of a file are its last module.
code() {
    awk 'NR == 1 && tolower($0) ~ /generated/ { exit }
        /^#\[cfg\(test\)\]/ { getline; if (/^mod .*\{$/) exit; next }
        /^[[:space:]]*(\/\/.*)?$/ { next }
        { lines++ }
        END { print lines + 0 }'
}

printf '%-12s' "part"
for revision in "$@"; do printf ' %16.16s' "$revision"; done
echo
for part in node rpc-shell client machine runtime; do
    printf '%-12s' "$part"
    for revision in "$@"; do printf ' %16d' "$(count "$revision" "$part")"; done
    echo
done
printf '%-12s' "all"
for revision in "$@"; do
    sum=0
    for part in node rpc-shell client machine runtime; do sum=$((sum + $(count "$revision" "$part"))); done
    printf ' %16d' "$sum"
done
echo
