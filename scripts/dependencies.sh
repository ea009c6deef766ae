#!/bin/sh
# What the workspace depends on: only licences that go with ours, and no crate in two versions without a reason.
set -eu

cd "$(dirname -- "$0")/.."

# Each alternative (`OR`) of a licence counts; one that is listed here is enough.
allowed='MIT Apache-2.0 Apache-2.0_WITH_LLVM-exception BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 ISC MIT-0 Unicode-3.0 Unlicense Zlib'
# Crates that stand in the build twice, each with the reason.
#   cpufeatures      the primitives of snow are one version behind blake3
#   getrandom        ring's own random numbers, which nothing asks for, are two versions behind ours
#   syn              derive macros of others are at version 2, the stub generator at 3
#   unicode-width    miette and textwrap are at different versions
twice='cpufeatures getrandom syn unicode-width'

bad=$(cargo tree --workspace --locked --edges normal,build,dev --prefix none --format '{p}|{l}' | grep . | sort -u |
    awk -F'|' -v allowed="$allowed" '
        BEGIN { n = split(allowed, list, " "); for (i = 1; i <= n; i++) good[list[i]] = 1 }
        {
            text = $2; sub(/ \(\*\)$/, "", text); gsub(/\//, " OR ", text); gsub(/ WITH /, "_WITH_", text)
            # `(A OR B) AND C`: every part that AND joins needs one alternative that is allowed.
            parts = split(text, joined, / AND /); ok = parts > 0
            for (i = 1; i <= parts; i++) {
                gsub(/[()]/, "", joined[i]); count = split(joined[i], names, / OR /); any = 0
                for (k = 1; k <= count; k++) { gsub(/^ +| +$/, "", names[k]); if (names[k] in good) any = 1 }
                if (!any) ok = 0
            }
            if (!ok) print "  " $1 ": licence `" $2 "`"
        }')
if [ -n "$bad" ]; then
    printf 'licences that scripts/dependencies.sh does not allow:\n%s\n' "$bad" >&2
    exit 1
fi

found=$(cargo tree --workspace --locked --edges normal,build --prefix none --format '{p}' |
    awk 'NF { print $1, $2 }' | sort -u | awk '{ print $1 }' | uniq -d)
for name in $found; do
    case " $twice " in
        *" $name "*) ;;
        *) echo "$name is in the build twice; mend it, or give the reason in scripts/dependencies.sh" >&2; exit 1 ;;
    esac
done
for name in $twice; do
    echo "$found" | grep -qx "$name" || { echo "$name is not in the build twice any more: scripts/dependencies.sh" >&2; exit 1; }
done
