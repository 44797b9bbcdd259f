#!/usr/bin/env bash
# What the machine must have besides Rust. Installs what is missing on Debian and its relatives; elsewhere says what
# to install and fails.
#
#   scripts/deps.sh [build|s3|openssl|make|xz]…      default: build
#
#   build   a C++ compiler and libclang with its headers: RocksDB is C++, its Rust bindings are generated
#   s3      Python with venv, and curl: the S3 server that tests start (scripts/s3-server.sh)
#   openssl the command of that name: tests have it make a cluster's certificates (deploy/cluster-certificates.sh)
#   make    make itself, for those who came without it
#   xz      for an archive of RocksDB that was built elsewhere (.ci/run)
#
# It looks for the thing itself rather than for a package, so whatever already works is left alone.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

# By either name it goes by; libclang-cpp is another library.
has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  local folder
  for folder in '/usr/lib/llvm-*/lib' '/usr/lib' '/usr/lib64' '/usr/lib/*-linux-*' '/usr/local/lib'; do
    compgen -G "$folder/libclang.so*" >/dev/null && return 0
    compgen -G "$folder/libclang-[0-9]*.so*" >/dev/null && return 0
  done
  return 1
}

# The compiler's own headers (stddef.h and such); without them libclang parses nothing.
has_clang_headers() {
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null \
    || compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null \
    || compgen -G '/usr/local/lib/clang/*/include/stddef.h' >/dev/null
}

# A release's own LLVM is the one that its libclang-dev depends on: 14 on Debian 12, 19 on Debian 13.
libclang_version() {
  apt-cache depends libclang-dev 2>/dev/null | sed -n 's/.*Depends: libclang-\([0-9]*\)-dev$/\1/p' | head -n 1
}

missing=()   # what is not there, in words
packages=()  # what brings it on Debian; LIBCLANG stands for two packages whose version is not known before `update`

want() {
  case "$1" in
    build)
      has cargo || { echo "deps.sh: no cargo: install Rust first, https://rustup.rs" >&2; exit 1; }
      if ! { has c++ || has g++ || has clang++; } || ! has ar || ! has strip; then
        missing+=("a C++20 compiler and binutils")
        packages+=(g++)
      fi
      if ! has_libclang || ! has_clang_headers; then
        missing+=("libclang and the clang headers")
        packages+=(LIBCLANG)
      fi
      ;;
    s3)
      if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        missing+=("python3 with venv")
        packages+=(python3-venv)
      fi
      if ! has curl; then
        missing+=(curl)
        packages+=(curl)
      fi
      ;;
    openssl) has openssl || { missing+=(openssl); packages+=(openssl); } ;;
    make) has make || { missing+=(make); packages+=(make); } ;;
    xz) has xz || { missing+=(xz); packages+=(xz-utils); } ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 2 ;;
  esac
}

[ $# -gt 0 ] || set -- build
for group in "$@"; do want "$group"; done
[ ${#packages[@]} -gt 0 ] || exit 0

list=$(printf '%s, ' "${missing[@]}")
list=${list%, }

if ! has apt-get; then
  cat >&2 <<TEXT
deps.sh: missing: $list.
  Fedora:  dnf install gcc-c++ clang-libs clang-devel make python3 curl openssl
  Arch:    pacman -S gcc clang make python curl openssl
  Alpine:  apk add bash g++ clang-libclang clang-headers make python3 py3-pip curl openssl
Then run this again; LIBCLANG_PATH names the folder of libclang where it is in an unusual place.
TEXT
  exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  has sudo || { echo "deps.sh: missing: $list. Neither root nor sudo: install ${packages[*]/LIBCLANG/libclang-dev}" >&2; exit 1; }
  as_root=(sudo)
fi

echo "deps.sh: installing $list" >&2
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
names=()
for package in "${packages[@]}"; do
  if [ "$package" = LIBCLANG ]; then
    version=$(libclang_version)
    [ -n "$version" ] || { echo "deps.sh: this release has no libclang-dev" >&2; exit 1; }
    names+=("libclang1-$version" "libclang-common-$version-dev")
  else
    names+=("$package")
  fi
done
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${names[@]}" >&2
