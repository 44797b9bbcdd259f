#!/usr/bin/env bash
# The crash suite at length: kill -9 under load, on a local directory and then on a real S3 server.
#
#   scripts/crash.sh [ROUNDS]     default 200, on each store
#
# The rounds on S3 are spread over several fresh buckets of at most 50 rounds each.
#
# MILLRACE_CRASH_SEED repeats a run's choices. Progress and seeds go to the terminal, the summary comes last.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${1:-200}
scripts/deps.sh build s3
source scripts/env.sh
scripts/rocksdb.sh build
source scripts/s3-scratch.sh

log=$(mktemp "${TMPDIR:-/tmp}/millrace-crash.XXXXXX")
trap 's3_end; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

status=0
on() {
  local store=$1 rounds=$2
  printf '\n== %s rounds on %s\n' "$rounds" "$store"
  MILLRACE_CRASH_STORE=$store MILLRACE_CRASH_ROUNDS=$rounds \
    cargo test --locked --quiet -p millrace-server --test crash -- --nocapture --test-threads=1 2>&1 \
    | tee -a "$log" || { status=1; echo "FAILED on $store" >> "$log"; }
}

on local "$rounds"
while [ "$rounds" -gt 0 ]; do
  s3_begin
  export MILLRACE_CRASH_S3_URL=$MILLRACE_TEST_S3_URL
  on s3 "$((rounds < 50 ? rounds : 50))"
  s3_end
  rounds=$((rounds - 50))
done

printf '\n== summary\n'
grep -E '^(crash: [0-9]+ (rounds|kills)|test result|FAILED)' "$log" || true
exit $status
