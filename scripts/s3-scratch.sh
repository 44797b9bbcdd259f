# shellcheck shell=bash
# For `source`: s3_begin starts an S3 server on free ports with its data in a new temporary directory and exports the
# variables that point tests at it; s3_end stops it and removes the data. s3_end is safe to call at any time.

s3_dir=

s3_begin() {
  local root port offset _
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  s3_dir=$(mktemp -d "${TMPDIR:-/tmp}/millrace-s3.XXXXXX")
  for _ in $(seq 20); do
    # Below the ports that the system hands out by itself, and so are those 10000 higher, which are used too.
    port=$((20000 + RANDOM % 500 * 5))
    for offset in 0 1 2 3 4; do
      if (exec 3<>"/dev/tcp/127.0.0.1/$((port + offset))") 2>/dev/null; then continue 2; fi
    done
    "$root/scripts/s3-server.sh" up "$s3_dir" "$port"
    "$root/scripts/s3-server.sh" wait "$s3_dir"
    eval "$("$root/scripts/s3-server.sh" env "$s3_dir")"
    return 0
  done
  echo "s3-scratch.sh: no five free ports in a row" >&2
  return 1
}

s3_end() {
  [ -n "$s3_dir" ] || return 0
  local root
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  "$root/scripts/s3-server.sh" down "$s3_dir" || true
  rm -rf "$s3_dir"
  s3_dir=
}
