#!/usr/bin/env bash
# RocksDB's C++ as one static archive, built once per machine and kept in the cache folder.
#
#   scripts/rocksdb.sh path      print the folder that holds (or will hold) librocksdb.a
#   scripts/rocksdb.sh build     build it from the locked crate, unless it is there
#
# Compiling it takes about half an hour of CPU; with the archive at hand a clean build of the workspace does not
# compile any of it. The folder's name carries RocksDB's version (from Cargo.lock) and the compression features
# (from Cargo.toml), so that a change of either builds another archive and never links the wrong one.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"

die() { echo "rocksdb.sh: $*" >&2; exit 1; }

# "0.19.0+11.8.1" in the lock file: the crate's version, then RocksDB's.
locked=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/version = |"/, ""); print; exit }' "$root/Cargo.lock")
version=${locked#*+}
[ -n "$locked" ] && [ "$version" != "$locked" ] || die "no librocksdb-sys in Cargo.lock"

# What goes into the archive; the bindgen features only decide how the Rust side is generated.
features=$(sed -n 's/^rocksdb *= *{.*features *= *\[\([^]]*\)\].*/\1/p' "$root/Cargo.toml" \
  | tr -d '" ' | tr ',' '\n' | grep -v '^bindgen' | LC_ALL=C sort | paste -sd- -)
[ -n "$features" ] || die "no rocksdb features in Cargo.toml"

dir="${ROCKSDB_LIB_DIR:-$cache/rocksdb-$version-$features}"

build() {
  [ -s "$dir/librocksdb.a" ] && return 0
  [ -z "${ROCKSDB_LIB_DIR:-}" ] || [ "$dir" = "$cache/rocksdb-$version-$features" ] \
    || die "ROCKSDB_LIB_DIR is set to $dir, which holds no librocksdb.a"
  mkdir -p "$cache"
  exec 9>"$cache/rocksdb.lock"
  if command -v flock >/dev/null; then
    flock -n 9 || { echo "rocksdb.sh: waiting for another build of RocksDB" >&2; flock 9; }
  fi
  [ -s "$dir/librocksdb.a" ] && return 0

  echo "rocksdb.sh: building RocksDB $version ($features); once on this machine, 15 to 30 minutes" >&2
  local started=$SECONDS target="$cache/rocksdb-build" out archive temp
  # The same variables would make the crate look for the archive that is to be built here. `check` runs the
  # crate's build script, which compiles the C++, and spares the code generation of everything around it.
  (cd "$root" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
    CARGO_TARGET_DIR="$target" cargo check --locked --release -p librocksdb-sys)
  archive=
  for out in "$target"/release/build/librocksdb-sys-*/out/librocksdb.a; do
    [ -s "$out" ] && { [ -z "$archive" ] || [ "$out" -nt "$archive" ]; } && archive=$out
  done
  [ -n "$archive" ] || die "cargo left no librocksdb.a under $target"

  # In whole or not at all: a build that is interrupted here leaves a folder that nobody looks into.
  temp=$(mktemp -d "$cache/rocksdb-new.XXXXXX")
  cp "$archive" "$temp/librocksdb.a"
  strip --strip-debug "$temp/librocksdb.a"
  chmod 755 "$temp"
  rm -rf "$dir"
  mv "$temp" "$dir"
  rm -rf "$target"
  echo "rocksdb.sh: $dir/librocksdb.a ($(du -h "$dir/librocksdb.a" | cut -f1), $((SECONDS - started)) s)" >&2
}

case "${1:-}" in
  path) echo "$dir" ;;
  build) build ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
