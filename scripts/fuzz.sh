#!/usr/bin/env bash
# Runs every fuzz target for a while; a crash stays as a file under fuzz/artifacts and fails the run.
#
#   scripts/fuzz.sh [SECONDS]     default 60, per target
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo +nightly fuzz --version >/dev/null 2>&1 || {
  echo "fuzz.sh: needs nightly Rust and cargo-fuzz: rustup toolchain install nightly && cargo install cargo-fuzz" >&2
  exit 1
}
source scripts/env.sh
scripts/rocksdb.sh build
# Sanitizers change the flags of everything: a target directory of its own keeps the others' builds.
export CARGO_TARGET_DIR="$CARGO_TARGET_DIR/fuzz"
for target in $(cargo +nightly fuzz list); do
  printf '\n== %s\n' "$target"
  cargo +nightly fuzz run "$target" -- -max_total_time="${1:-60}" -print_final_stats=1
done
