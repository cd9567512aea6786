#!/bin/sh
# Declare, build, warm, run; edit a mounted file, and run again: same hash, new file.
#
# Run it as root (see the README) from anywhere. It works on a copy of this folder and on a state
# directory of its own, and leaves nothing running. CHALK names the program; without it, the
# checkout's own is built. Where python:3.12-slim-bookworm cannot be pulled, a stand-in is made and
# imported (`cargo xtask base`).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
if [ -z "${CHALK:-}" ]; then
    (cd "$checkout" && cargo build --quiet --release)
    CHALK=${CARGO_TARGET_DIR:-$checkout/target}/release/chalk
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export CHALK_STATE_DIR="$work/state"
cp -R "$here/." "$work/project"
cd "$work/project"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
chalk() {
    printf '$ chalk %s\n' "$*" >&2
    "$CHALK" "$@"
}

say "Declare: the hash is known before anything is uploaded"
chalk compute image hash --offline image.toml

say "Build"
if ! "$CHALK" compute image lock image.toml 2>"$work/lock.log"; then
    cat "$work/lock.log" >&2
    say "The base cannot be pulled here: a stand-in is imported"
    base=$(cd "$checkout" && cargo xtask base)
    chalk compute image import "$base" --as python:3.12-slim-bookworm
fi
chalk compute image build image.toml --progress plain
hash=$("$CHALK" compute image hash image.toml)
echo "image $hash"

say "Warm: the image is in the node's cache before any sandbox starts"
chalk compute image warm --image "$hash" --wait

say "Run: a sandbox sees the copied, the mounted and the environment values"
first=$(chalk compute sandbox run --image image.toml -- python3 app.py)
echo "$first"
chalk compute sandbox run --image image.toml -- /app/src/check.sh

say "Edit the mounted file: the hash is the same, the next sandbox sees it"
sed -i 's/first version/second version/' src/greeter/__init__.py
after=$("$CHALK" compute image hash image.toml)
second=$(chalk compute sandbox run --image image.toml -- python3 app.py)
echo "$second"

[ "$hash" = "$after" ] || { echo "the hash changed: $hash, $after" >&2; exit 1; }
case "$first" in *"hello, first version in /app"*) ;; *) echo "unexpected: $first" >&2; exit 1 ;; esac
case "$second" in *"hello, second version in /app"*) ;; *) echo "unexpected: $second" >&2; exit 1 ;; esac
say "Done: image $hash, unchanged by the edit"
