#!/bin/sh
# Past one machine: the quick start with the engines of others. The BuildKit of dockerd builds, a
# docker-registry with TLS and a login stores, a second build is skipped, a node warms the image into a
# containerd, and `ctr -n k8s.io run` runs it there without a pull.
#
# Run it as root (see the README) on Debian or Ubuntu, from anywhere; what it lacks it installs by apt. All
# that it starts is its own, lies in a temporary directory (below SCRATCH, if that is set) and ends with
# the script.
#
#   CHALK=PROGRAM       use this `chalk`; without it, the checkout's own is built
#   PROFILE=dev         build that for debugging, which is faster
#   ENGINE=embedded     let the service build by itself, without dockerd
#   CHALK_TEST_BASE=DIR OCI layout that stands in for python:3.12-slim-bookworm where that cannot be
#                       pulled; without it, one is made (`cargo xtask base`)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
ENGINE=${ENGINE:-buildkit}
SNAPSHOTTER=${SNAPSHOTTER:-overlayfs}
# Program and the package that has it; dockerd comes last.
missing=
for pair in docker-registry:docker-registry containerd:containerd ctr:containerd runc:runc openssl:openssl \
    curl:curl python3:python3 dockerd:docker.io docker:docker.io; do
    program=${pair%%:*}
    case $ENGINE:$program in embedded:docker | embedded:dockerd) continue ;; esac
    command -v "$program" >/dev/null || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    apt-get update --quiet
    # What a package starts by itself is left alone. shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $missing
fi
if [ -z "${CHALK:-}" ]; then
    profile=${PROFILE:-release}
    (cd "$checkout" && cargo build --quiet --package chalk --profile "$profile")
    [ "$profile" != dev ] || profile=debug
    CHALK=${CARGO_TARGET_DIR:-$checkout/target}/$profile/chalk
fi
# Sockets have short paths; data lie where SCRATCH says, since /tmp may be in memory.
run=$(mktemp -d)
work=$(mktemp -d ${SCRATCH:+-p "$SCRATCH"})
pids=
end() {
    status=$?
    trap - EXIT INT TERM
    # The last first: clients before what they talk to.
    for pid in $pids; do
        kill "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
    done
    if [ "$status" -ne 0 ]; then
        for log in "$work"/*.log; do
            printf -- '--- %s\n' "$log" >&2
            tail -n 20 "$log" >&2
        done
    fi
    awk -v a="$run/" -v b="$work/" 'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts |
        sort -r | xargs -r umount
    rm -rf "$run" "$work"
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
chalk() {
    printf '$ chalk %s\n' "$*" >&2
    "$CHALK" "$@"
}
# start NAME COMMAND...: in the background, with a log.
start() {
    name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
    pids="$! $pids"
}
# until_so WHAT COMMAND...: waits for a minute at most.
until_so() {
    what=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "waited in vain: $what" >&2; exit 1; }
        sleep 0.2
    done
}
json() { python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"; }

say "A registry with TLS of an authority of our own, and a login"
# Not on loopback, where every client takes a registry for one without TLS.
address=$(hostname -I | cut -d' ' -f1)
[ -n "$address" ] || { echo "this host has no address but loopback" >&2; exit 1; }
registry=$address:$(ADDRESS=$address python3 -c 'import os, socket
s = socket.socket(); s.bind((os.environ["ADDRESS"], 0)); print(s.getsockname()[1])')
export NO_PROXY="$address,127.0.0.1${NO_PROXY:+,$NO_PROXY}"
export no_proxy="$NO_PROXY"
mkdir "$work/tls"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=chalk-example-authority \
    -addext basicConstraints=critical,CA:TRUE -keyout "$work/tls/ca.key" -out "$work/tls/ca.crt" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout "$work/tls/key.pem" \
    -out "$work/tls/request.pem" 2>/dev/null
printf 'subjectAltName=IP:%s\n' "$address" >"$work/tls/names"
openssl x509 -req -days 2 -in "$work/tls/request.pem" -CA "$work/tls/ca.crt" -CAkey "$work/tls/ca.key" \
    -CAcreateserial -extfile "$work/tls/names" -out "$work/tls/cert.pem" 2>/dev/null
password=$(openssl rand -hex 16)
salt=$(openssl rand -base64 32 | tr -dc A-Za-z0-9 | cut -c1-22)
hashed=$(PASSWORD=$password SALT="\$2b\$10\$$salt" perl -e 'print crypt($ENV{PASSWORD}, $ENV{SALT})')
printf 'builder:%s\n' "$hashed" >"$work/htpasswd"
cat >"$work/registry.yml" <<END
version: 0.1
log: { level: info }
storage: { filesystem: { rootdirectory: $work/registry } }
http:
  addr: $registry
  tls: { certificate: $work/tls/cert.pem, key: $work/tls/key.pem }
auth: { htpasswd: { realm: example, path: $work/htpasswd } }
END
start registry docker-registry serve "$work/registry.yml"
registry_pid=${pids%% *}
until_so "the registry answers" curl --silent --noproxy '*' --cacert "$work/tls/ca.crt" \
    "https://$registry/v2/"
# The service takes the password from a file, and nodes a login as `docker login` leaves it.
mkdir "$work/docker"
(
    umask 077
    printf '%s\n' "$password" >"$work/password"
    printf '{"auths":{"%s":{"auth":"%s"}}}\n' "$registry" \
        "$(printf 'builder:%s' "$password" | base64 -w0)" >"$work/docker/config.json"
)

say "A service that stores there"
export CHALK_STATE_DIR="$work/state"
export CHALK_REGISTRY_URL="https://$registry" CHALK_REGISTRY_PREFIX=team
export CHALK_REGISTRY_USERNAME=builder CHALK_REGISTRY_PASSWORD_FILE="$work/password"
export CHALK_REGISTRY_CA_BUNDLE="$work/tls/ca.crt" CHALK_PREWARM_IMAGES=""
if [ "$ENGINE" = buildkit ]; then
    # It pushes to the registry, and so must trust the authority, too.
    cat /etc/ssl/certs/ca-certificates.crt "$work/tls/ca.crt" >"$work/tls/all.crt"
    SSL_CERT_FILE="$work/tls/all.crt" start dockerd dockerd --iptables=false --bridge=none \
        --data-root "$work/dockerd" --exec-root "$run/docker" --host "unix://$run/docker.sock" \
        --pidfile "$run/docker.pid"
    until_so "dockerd answers" env DOCKER_HOST="unix://$run/docker.sock" docker version
    # Without a bridge, steps have the network of the host.
    export CHALK_BUILD_ENGINE=buildkit CHALK_BUILD_BUILDKIT_NETWORK=host
    export CHALK_BUILD_BUILDKIT_ADDRESSES="docker://$run/docker.sock"
fi
cp -R "$checkout/examples/quickstart" "$work/project"
FILE=$work/project/image.toml
start service "$CHALK" serve --listen 127.0.0.1:0
until_so "the service runs" test -s "$work/state/service.json"
if ! "$CHALK" compute image lock "$FILE" 2>"$work/lock.log"; then
    say "The base cannot be pulled here: a stand-in is imported"
    base=${CHALK_TEST_BASE:-$(cd "$checkout" && cargo xtask base)}
    chalk compute image import "$base" --as python:3.12-slim-bookworm
fi

say "A containerd, and a node that keeps images in it"
cat >"$run/config.toml" <<END
version = 2
root = "$work/containerd"
state = "$run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$run/containerd.sock"
END
start containerd containerd --config "$run/config.toml"
ctr() { command ctr --address "$run/containerd.sock" --namespace k8s.io "$@"; }
until_so "containerd answers" ctr version
CHALK_NODE_CA_BUNDLE="$work/tls/ca.crt" CHALK_NODE_CREDENTIALS="$work/docker/config.json" \
    start node "$CHALK" node --name worker --runtime containerd \
    --containerd-address "$run/containerd.sock" --set "node.containerd.snapshotter=$SNAPSHOTTER"
is_ready() { "$CHALK" compute node ls | grep -q '^worker .*ready'; }
until_so "the node is ready" is_ready

say "Build ($ENGINE)"
chalk compute image build "$FILE" --progress plain
hash=$("$CHALK" compute image hash "$FILE")

say "Build again: skipped"
again=$(chalk compute image build "$FILE" --json | tail -n 1)
[ "$(echo "$again" | json 'd["status"]')" = reused ] || { echo "not skipped: $again" >&2; exit 1; }
image=$(echo "$again" | json 'd["image"]')
echo "$image"

say "Warm: into the containerd"
chalk compute image warm --image "$hash" --node worker --wait
again=$(chalk compute image warm --image "$hash" --node worker --wait --json)
[ "$(echo "$again" | json 'd["nodes"][0]["bytes_fetched"]')" = 0 ] || { echo "fetched: $again" >&2; exit 1; }
ctr images ls | cut -c1-150

say "Run, with the registry gone: nobody pulls"
kill "$registry_pid"
until_so "the registry is gone" sh -c "! kill -0 $registry_pid"
ran=$(ctr run --rm --net-host --snapshotter "$SNAPSHOTTER" "$image" example \
    python3 -c 'import os, pandas, requests; print("pandas", pandas.__version__, "in", os.environ["PROJECT_ROOT"])')
echo "$ran"
case $ran in "pandas "*" in /app") ;; *) echo "unexpected: $ran" >&2; exit 1 ;; esac
say "Done: $image"
