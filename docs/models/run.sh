#!/bin/sh
# Checks a model:            ./run.sh merge_chain
# with a planted mistake:    ./run.sh merge proof_by_ranges
# against one invariant:     ./run.sh merge absorption_by_ranges NoLiveReplicaEntombed
# TLA2TOOLS names tla2tools.jar. States and traces go to a temporary directory; exit code 0 only if all holds.
set -eu
cfg=$1 bug=${2:-none} only=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$here/${cfg%%_*}.tla" "$dir/"
sed "s/Bug = \"none\"/Bug = \"$bug\"/" "$here/$cfg.cfg" > "$dir/run.cfg"
if [ -n "$only" ]; then
    sed -i '/^INVARIANTS/,$d' "$dir/run.cfg"
    echo "INVARIANTS $only" >> "$dir/run.cfg"
fi
cd "$dir"
# No step left is not a deadlock: the bounds end every history.
java -XX:+UseSerialGC -Xmx3g -cp "$TLA2TOOLS" tlc2.TLC -deadlock -workers 1 -metadir "$dir/states" -config run.cfg "${cfg%%_*}.tla"
