#!/usr/bin/env bash
# All tests: the workspace's, its documentation's, and a short crash run on a real S3 server that it starts and stops.
#
#   scripts/test.sh [ARGUMENTS OF cargo test]     with arguments, only the workspace's tests they choose
#
# Runs to the end whatever fails, so that one run shows everything; its last line counts, and its status is honest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/deps.sh build s3 openssl
source scripts/env.sh
scripts/rocksdb.sh build
source scripts/s3-scratch.sh

log=$(mktemp "${TMPDIR:-/tmp}/millrace-test.XXXXXX")
trap 's3_end; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

failed=()
counts="0 0"

# Adds a step's summary to the counts. Both runners have one: "Summary [ 1.2s] 40 tests run: 39 passed, 1 failed", which
# counts alone where there is one, or "test result: ok. 39 passed; 1 failed" for each binary. Colours are taken out first.
add_up() {
  counts=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | awk -v counts="$counts" '
    function take(   i) {
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^failed/ || $i ~ /^timed/) failed += $(i - 1)
      }
    }
    /^ *Summary \[/ { if (!summaries++) passed = failed = 0; take() }
    /^test result: / && !summaries { take() }
    END { split(counts, before, " "); print before[1] + passed, before[2] + failed }')
}

step() {
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  if ! "$@" 2>&1 | tee "$log"; then failed+=("$name"); fi
  add_up
}

if cargo nextest --version >/dev/null 2>&1; then
  run=(cargo nextest run --locked)
  crash=(cargo nextest run --locked -p millrace-server --test crash --no-capture -E 'test(=acknowledged_records_survive_kill_9)')
  with_docs=true
else
  run=(cargo test --locked --no-fail-fast)
  crash=(cargo test --locked -p millrace-server --test crash -- --nocapture --exact acknowledged_records_survive_kill_9)
  with_docs=false   # cargo test has run them
fi

s3_begin
if [ $# -gt 0 ]; then
  step "tests $*" "${run[@]}" "$@"
else
  step "tests" "${run[@]}" --workspace
  if $with_docs; then step "documentation tests" cargo test --locked --workspace --doc --quiet; fi
  export MILLRACE_CRASH_STORE=s3 MILLRACE_CRASH_S3_URL=$MILLRACE_TEST_S3_URL
  step "kill -9 on an S3 server" "${crash[@]}"
fi

summary="${counts% *} passed, ${counts#* } failed"
printf '\n'
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  echo "$summary"
  exit 1
fi
if [ "${counts% *}" -eq 0 ]; then
  echo "no test ran"
  exit 1
fi
echo "$summary"
