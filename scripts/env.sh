#!/usr/bin/env bash
# The build environment, in one place: where Cargo puts its output and which RocksDB archive it links.
#
#   scripts/env.sh COMMAND…      run a command in it (the archive is built first if there is none)
#   source scripts/env.sh        set the same variables in your own shell
#
# Every variable can be set beforehand and is then left alone:
#   CARGO_TARGET_DIR             default: <cache>/target, outside the working copy
#   ROCKSDB_LIB_DIR              default: <cache>/rocksdb-<version>-<features>, see scripts/rocksdb.sh
#   MILLRACE_CACHE               <cache>; default: ${XDG_CACHE_HOME:-$HOME/.cache}/millrace
#
# Use one environment for all builds of a working copy: Cargo rebuilds what depends on a variable that changed.

MILLRACE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export MILLRACE_ROOT
export MILLRACE_CACHE="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$MILLRACE_CACHE/target}"
export ROCKSDB_LIB_DIR="${ROCKSDB_LIB_DIR:-$("$MILLRACE_ROOT/scripts/rocksdb.sh" path)}"
export ROCKSDB_STATIC=1

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  [ $# -gt 0 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 2; }
  "$MILLRACE_ROOT/scripts/rocksdb.sh" build
  cd "$MILLRACE_ROOT"
  exec "$@"
fi
