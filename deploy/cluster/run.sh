#!/usr/bin/env bash
# A site of three NATS servers and three control-plane processes on this machine's
# loopback. It runs until it is interrupted; what it keeps is in DIR, and the next
# start goes on with it. See README.md.
set -euo pipefail

dir=${1:-${TMPDIR:-/tmp}/gpuaas-cluster}
site=${SITE:-cluster}
api=${API_PORT:-8081} nats=${NATS_PORT:-4241} routes=${ROUTE_PORT:-6241} # the first of three each
repo=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$dir/bin"
chmod 755 "$dir"
dir=$(cd "$dir" && pwd)

# Built from here, unless they are given.
gpuaas=${GPUAAS:-$dir/bin/gpuaas} nats_server=${NATS_SERVER:-$dir/bin/nats-server}
[ -n "${GPUAAS:-}" ] || (cd "$repo" && go build -o "$gpuaas" ./cmd/gpuaas)
[ -n "${NATS_SERVER:-}" ] || (cd "$repo" && go build -o "$nats_server" github.com/nats-io/nats-server/v2)

# supervise runs a program again whenever it ends, as systemd does; its process id is
# in NAME/pid.
supervise() {
    local name=$1 child
    shift
    mkdir -p "$dir/$name"
    trap 'kill -TERM "$child" 2>/dev/null || true; wait "$child" || true; exit 0' TERM
    while :; do
        "$@" >>"$dir/$name/log" 2>&1 &
        child=$!
        echo "$child" >"$dir/$name/pid"
        wait "$child" || true
        sleep 0.5 & wait $! || true
    done
}

supervisors=()
stop() {
    trap - EXIT INT TERM
    # The last started first: the control plane hands over and ends before its log does.
    for ((i = ${#supervisors[@]} - 1; i >= 0; i--)); do
        kill -TERM "${supervisors[i]}" 2>/dev/null || true
        wait "${supervisors[i]}" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 0' INT TERM

urls=""
for i in 0 1 2; do
    mkdir -p "$dir/n$i"
    "$gpuaas" nats config --site "$site" --trust "$dir/trust" --name "n$i" --dir "$dir/n$i" --listen "127.0.0.1:$((nats + i))" \
        --cluster-listen "127.0.0.1:$((routes + i))" \
        --route "127.0.0.1:$routes,127.0.0.1:$((routes + 1)),127.0.0.1:$((routes + 2))" >"$dir/n$i/nats.conf"
    supervise "n$i" "$nats_server" -c "$dir/n$i/nats.conf" &
    supervisors+=($!)
    urls+="${urls:+,}nats://127.0.0.1:$((nats + i))"
done

# One secret for all; each has a Postgres of its own unless DATABASE_URL names one.
[ -e "$dir/site.secret" ] || (umask 077 && head -c 32 /dev/urandom >"$dir/site.secret")
for i in 0 1 2; do
    mkdir -p "$dir/cp$i"
    cp -p "$dir/site.secret" "$dir/cp$i/site.secret"
    supervise "cp$i" "$gpuaas" serve --site "$site" --data-dir "$dir/cp$i" --listen "127.0.0.1:$((api + i))" \
        --nats-url "$urls" --nats-creds "$dir/trust" --replicas 3 ${DATABASE_URL:+--database-url "$DATABASE_URL"} &
    supervisors+=($!)
done

key=""
ready() { grep -q "^ready " "$dir/cp$1/log" 2>/dev/null; }
for ((waited = 0; waited < 120; waited++)); do
    if ready 0 && ready 1 && ready 2 && key=$(ls "$dir"/cp?/admin.key 2>/dev/null); then # who wrote first has it
        break
    fi
    sleep 1 & wait $!
done
echo "site $site: http://127.0.0.1:$api http://127.0.0.1:$((api + 1)) http://127.0.0.1:$((api + 2))"
echo "operator's key: ${key%%$'\n'*}; logs, process ids: $dir/{n,cp}{0,1,2}/{log,pid}"
wait
