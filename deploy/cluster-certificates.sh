#!/usr/bin/env bash
# Makes what the nodes of a cluster, and its operators, prove themselves with: an authority of the cluster's own, and a
# certificate for each of them.
#
#   cluster-certificates.sh DIR NAME=HOST[,HOST…] …    certificates for nodes, each with the hosts and addresses by
#                                                      which others reach it
#   cluster-certificates.sh DIR NAME                   a certificate for an operator's machine, which no one reaches
#
# The first run makes DIR/ca.pem and DIR/ca.key; later ones sign with them. For each name there are DIR/NAME.pem and
# DIR/NAME.key then; one that is there already is left alone: delete it to have a new one. A node needs ca.pem and its
# own two files. ca.key belongs on no node: whoever has it can make itself a node of the cluster.
#
# DAYS is how long the certificates of nodes and operators are good for (default 825), CA_DAYS that of the authority.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
command -v openssl > /dev/null || { echo "openssl is not installed" >&2; exit 1; }
dir=$1
shift
umask 077
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

new_key() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2> /dev/null
}

if [ ! -e "$dir/ca.pem" ] && [ ! -e "$dir/ca.key" ]; then
  new_key "$work/ca.key"
  openssl req -x509 -new -sha256 -key "$work/ca.key" -days "${CA_DAYS:-3650}" -subj "/CN=millrace cluster authority $(openssl rand -hex 4)" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out "$work/ca.pem"
  mv "$work/ca.key" "$dir/ca.key"
  install -m 644 "$work/ca.pem" "$dir/ca.pem"
  echo "made $dir/ca.pem, and $dir/ca.key, which is to be kept from everybody"
elif [ ! -e "$dir/ca.pem" ] || [ ! -e "$dir/ca.key" ]; then
  echo "of $dir/ca.pem and $dir/ca.key one is missing: both are needed to sign" >&2
  exit 1
fi

for asked in "$@"; do
  name=${asked%%=*}
  hosts=
  [ "$name" = "$asked" ] || hosts=${asked#*=}
  if ! [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || [ "$name" = ca ]; then
    echo "$name cannot be the name of a certificate" >&2
    exit 1
  fi
  if [ -e "$dir/$name.pem" ]; then
    echo "$dir/$name.pem is there already"
    continue
  fi
  usage="extendedKeyUsage=clientAuth"
  names=
  if [ -n "$hosts" ]; then
    usage="extendedKeyUsage=serverAuth,clientAuth"
    IFS=, read -r -a listed <<< "$hosts"
    for host in "${listed[@]}"; do
      kind=DNS
      if [[ $host =~ ^[0-9]+(\.[0-9]+){3}$ || $host == *:* ]]; then kind=IP; fi
      names+="${names:+,}$kind:$host"
    done
  fi
  {
    echo "basicConstraints=critical,CA:FALSE"
    echo "keyUsage=critical,digitalSignature"
    echo "$usage"
    [ -z "$names" ] || echo "subjectAltName=$names"
  } > "$work/extensions"
  new_key "$work/key"
  openssl req -new -sha256 -key "$work/key" -subj "/CN=$name" -out "$work/request"
  openssl x509 -req -sha256 -in "$work/request" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" \
    -set_serial "0x$(openssl rand -hex 15)" -days "${DAYS:-825}" -extfile "$work/extensions" -out "$work/pem" 2> /dev/null
  mv "$work/key" "$dir/$name.key"
  install -m 644 "$work/pem" "$dir/$name.pem"
  echo "made $dir/$name.pem and $dir/$name.key${names:+ for $names}"
done
