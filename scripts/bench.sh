#!/usr/bin/env bash
# Measures `millrace` beside `s2 lite` with the load generator that comes with the latter, `s2 bench`.
#
#   scripts/env.sh scripts/bench.sh [OPTION]…      (make bench does that, after building)
#
#   --sizes "256 1024 8192 65536"   record sizes in bytes, metered
#   --rounds 3                      runs of each size on each server, taken in turns; the table shows medians
#   --seconds 20                    length of one run
#   --target 1000                   MiB/s that the client aims at: more than it can reach
#   --idle-target 1                 MiB/s of the idle run, at 1 KiB records; 0 leaves it out
#   --servers "millrace lite"       which to run
#   --dir DIR                       where the servers keep their data; must be on the disk to be measured
#   --out FILE                      all runs as JSON; default <target>/bench.json
#
#   S2=…        the s2 command; default: found on PATH. `cargo install --locked s2-cli` brings it.
#   MILLRACE=…  the server; default: the release build
#
# Before the runs it times durable creates on the disk, and lone appends on each server.
#
# Both servers write to a local directory and sync each object before they acknowledge. Every run starts a fresh
# process on an empty directory. What the columns mean: docs/benchmarks.md.
set -euo pipefail

sizes="256 1024 8192 65536" rounds=3 seconds=20 target=1000 idle_target=1 servers="millrace lite"
dir="${TMPDIR:-/tmp}" out="${CARGO_TARGET_DIR:-target}/bench.json"
catchup_delay=2

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 2; }
die() { echo "bench.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case "$1" in
    --sizes) sizes=$2 ;; --rounds) rounds=$2 ;; --seconds) seconds=$2 ;; --target) target=$2 ;;
    --idle-target) idle_target=$2 ;; --servers) servers=$2 ;; --dir) dir=$2 ;; --out) out=$2 ;;
    *) usage ;;
  esac
  shift 2
done

s2=${S2:-$(command -v s2 || true)}
[ -x "$s2" ] || die "no s2 command: cargo install --locked s2-cli, or S2=/path/to/s2"
millrace=${MILLRACE:-${CARGO_TARGET_DIR:-target}/release/millrace}
case " $servers " in *" millrace "*) [ -x "$millrace" ] || die "no server at $millrace: make build" ;; esac

work=$(mktemp -d "$dir/millrace-bench.XXXXXX")
rows="$work/rows.tsv"
server_pid=

stop() {
  [ -n "$server_pid" ] || return 0
  local _
  kill "$server_pid" 2>/dev/null || true
  for _ in $(seq 200); do kill -0 "$server_pid" 2>/dev/null || break; sleep 0.05; done
  kill -9 "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
  local port _
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  die "no free port"
}

# Sets server_pid and url; the process is ready when this returns.
start() {
  local server=$1 log="$work/server.log" port _
  rm -rf "$work/data" "$work/store" "$log"
  mkdir -p "$work/data" "$work/store"
  port=$(free_port)
  url="http://127.0.0.1:$port"
  case "$server" in
    millrace)
      "$millrace" server --data-dir "$work/data" --store "file://$work/store" --http-addr "127.0.0.1:$port" \
        > "$log" 2>&1 < /dev/null &
      ;;
    lite)
      # Without a log line per request, which would be counted as its CPU.
      RUST_LOG=warn "$s2" lite --local-root "$work/store" --port "$port" --no-dashboard > "$log" 2>&1 < /dev/null &
      ;;
    *) die "no such server: $server" ;;
  esac
  server_pid=$!
  for _ in $(seq 300); do
    kill -0 "$server_pid" 2>/dev/null || { tail -n 20 "$log" >&2; die "$server ended at its start"; }
    curl -sf -o /dev/null -m 2 --noproxy '*' "$url/health" && return 0
    sleep 0.1
  done
  tail -n 20 "$log" >&2
  die "$server not ready after 30 s"
}

# User and system time of a process so far, in clock ticks. Its name may hold spaces: count from the last bracket.
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

run() {
  local server=$1 kind=$2 size=$3 rate=$4 round=$5
  local before after peak text="$work/client.out" limit=$((seconds * 2 + catchup_delay + 60)) client=0 status=0
  start "$server"
  export S2_ACCOUNT_ENDPOINT=$url S2_BASIN_ENDPOINT=$url S2_ACCESS_TOKEN=ignored
  timeout 30 "$s2" create-basin bench-basin >/dev/null 2>&1 || die "$server: no basin"
  before=$(ticks "$server_pid")
  TIMEFORMAT='client-cpu %U %S'
  { time timeout "$limit" "$s2" bench bench-basin -b "$size" -t "$rate" -d "${seconds}s" -w "${catchup_delay}s" \
    > "$text" 2>&1 < /dev/null; } 2> "$work/time" || status=$?
  after=$(ticks "$server_pid")
  peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$server_pid/status")
  client=$(awk '/^client-cpu/ { print $2 + $3 }' "$work/time")
  stop
  if [ "$status" -ne 0 ]; then
    tail -n 5 "$text" >&2
    echo "bench.sh: $server, $size B: s2 bench ended with $status; this run counts as failed" >&2
    failed=$((failed + 1))
    return 0
  fi
  # Progress bars end in carriage returns; the last line of each name is the result.
  tr '\r' '\n' < "$text" | awk -v server="$server" -v kind="$kind" -v size="$size" -v round="$round" \
    -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v peak="$peak" -v client="$client" '
    function ms(text) {
      if (text ~ /(µs|us)$/) return text / 1000
      if (text ~ /ms$/) return text + 0
      if (text ~ /ns$/) return text / 1000000
      return text * 1000
    }
    $1 == "Write:"   { write = $2; match($0, /\([0-9]+ bytes/); bytes = substr($0, RSTART + 1, RLENGTH - 7) }
    $1 == "Read:"    { read = $2 }
    $1 == "Catchup:" { catchup = $2 }
    /^p50 +:/ { p50 = ms($3); e50 = ms($6) }
    /^p99 +:/ { p99 = ms($3); e99 = ms($6) }
    END {
      if (bytes == 0 || catchup == "") exit 1
      gib = bytes / 1073741824
      printf "%s\t%s\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%.2f\n", server, kind, size, round,
        write, read, catchup, p50, p99, e50, e99, ticks / hz / gib, peak / 1024, client / gib
    }' >> "$rows" || { echo "bench.sh: cannot read what s2 bench printed:" >&2; tail -n 20 "$text" >&2; failed=$((failed + 1)); return 0; }
  tail -n 1 "$rows" | awk -F '\t' '{ printf "%-9s %-5s %6d B  round %d  append %s MiB/s  ack p50 %s p99 %s ms  %s CPU-s/GiB  peak %s MiB\n", \
    $1, $2, $3, $4, $5, $8, $9, $12, $13 }' >&2
}

# What the disk takes for one durable create, done the way a store does it: write, sync, link into place, sync the
# directory. The idle ack is to be held against this. Needs Python, and is left out without it.
probe() {
  command -v python3 >/dev/null || return 0
  mkdir -p "$work/probe"
  python3 - "$work/probe" <<'PY'
import os, sys, time
directory, times = sys.argv[1], []
handle = os.open(directory, os.O_RDONLY)
for number in range(300):
    began = time.perf_counter()
    temporary, final = f"{directory}/t{number}", f"{directory}/f{number}"
    file = os.open(temporary, os.O_CREAT | os.O_WRONLY)
    os.write(file, bytes(8192))
    os.fsync(file)
    os.close(file)
    os.link(temporary, final)
    os.unlink(temporary)
    os.fsync(handle)
    times.append((time.perf_counter() - began) * 1000)
times.sort()
print(f"one durable create of 8 KiB on this disk: p50 {times[150]:.2f} ms, p99 {times[297]:.2f} ms")
PY
}

# One append at a time over one connection, each sent when the one before is acknowledged: what a lone ack takes
# without any batching of a client. Needs Python, and is left out without it.
lone() {
  command -v python3 >/dev/null || return 0
  start "$1"
  S2_ACCOUNT_ENDPOINT=$url S2_BASIN_ENDPOINT=$url S2_ACCESS_TOKEN=ignored \
    timeout 30 "$s2" create-basin bench-basin --create-stream-on-append >/dev/null 2>&1 || die "$1: no basin"
  timeout 60 python3 - "$1" "${url#http://}" <<'PY' || failed=$((failed + 1))
import http.client, json, socket, sys, time
server, address = sys.argv[1:]
connection = http.client.HTTPConnection(address, timeout=10)
connection.connect()
connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
body = json.dumps({"records": [{"body": "x" * 1000}]})
headers = {"s2-basin": "bench-basin", "content-type": "application/json"}
times = []
for number in range(550):
    began = time.perf_counter()
    connection.request("POST", "/v1/streams/lone/records", body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        sys.exit(f"{server}: {response.status} {answer!r}")
    times.append((time.perf_counter() - began) * 1000)
times = sorted(times[50:])
print(f"{server:9} lone append of 1 KB, one at a time: ack p50 {times[250]:.2f} ms, p99 {times[495]:.2f} ms")
PY
  stop
}

failed=0
: > "$rows"
probe >&2
for server in $servers; do lone "$server" >&2; done
for round in $(seq "$rounds"); do
  for size in $sizes; do
    for server in $servers; do run "$server" load "$size" "$target" "$round"; done
  done
  if [ "$idle_target" -gt 0 ]; then
    for server in $servers; do run "$server" idle 1024 "$idle_target" "$round"; done
  fi
done

mkdir -p "$(dirname "$out")"
awk -F '\t' -v cpus="$(nproc)" -v seconds="$seconds" -v target="$target" -v idle="$idle_target" '
  BEGIN { printf "{\"cpus\": %d, \"seconds\": %d, \"target_mibps\": %d, \"idle_target_mibps\": %d, \"runs\": [", cpus, seconds, target, idle }
  { printf "%s\n  {\"server\": \"%s\", \"kind\": \"%s\", \"record_bytes\": %d, \"round\": %d, \"append_mibps\": %s, \"tail_mibps\": %s, \"catchup_mibps\": %s, \"ack_p50_ms\": %s, \"ack_p99_ms\": %s, \"end_to_end_p50_ms\": %s, \"end_to_end_p99_ms\": %s, \"server_cpu_s_per_gib\": %s, \"server_peak_mib\": %s, \"client_cpu_s_per_gib\": %s}", \
    (NR > 1 ? "," : ""), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14 }
  END { print "\n]}" }' "$rows" > "$out"

awk -F '\t' -v servers="$servers" '
  function median(key, column,   n, i, j, t, v) {
    n = count[key]
    for (i = 1; i <= n; i++) v[i] = value[key, i, column] + 0
    for (i = 2; i <= n; i++) { t = v[i]; for (j = i - 1; j >= 1 && v[j] > t; j--) v[j + 1] = v[j]; v[j + 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
  }
  { key = $2 FS $3 FS $1
    if (!(key in count)) order[++keys] = key
    i = ++count[key]
    for (c = 5; c <= 14; c++) value[key, i, c] = $c }
  END {
    print "| kind | record B | server | append MiB/s | tail MiB/s | catch-up MiB/s | ack p50 ms | ack p99 ms | server CPU-s/GiB | peak MiB | client CPU-s/GiB | runs |"
    print "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for (k = 1; k <= keys; k++) {
      split(order[k], part, FS)
      printf "| %s | %s | %s | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.0f | %.1f | %d |\n", part[1], part[2], part[3],
        median(order[k], 5), median(order[k], 6), median(order[k], 7), median(order[k], 8), median(order[k], 9),
        median(order[k], 12), median(order[k], 13), median(order[k], 14), count[order[k]]
    }
  }' "$rows"
echo "all runs: $out" >&2
[ "$failed" -eq 0 ] || die "$failed runs failed"
