#!/usr/bin/env bash
# get-headers.sh FOLDER: the headers that the example is built with, from Debian's packages
#
# Needs apt of Debian or Ubuntu, no root, and changes nothing of the system. The library itself is
# that of Python's onnxruntime, which is newer: the C API has versions, and serves the older ones.
set -euo pipefail
folder=$1
[ ! -e "$folder" ] || { echo "$folder exists" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,unpacked}
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$key] http://deb.debian.org/debian trixie main" > "$work/sources.list"
options=(-q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=-
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
cd "$work"
apt-get "${options[@]}" update
apt-get "${options[@]}" download libonnxruntime-dev nlohmann-json3-dev
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
cd - > /dev/null
mkdir -p "$(dirname "$folder")"
mv "$work/unpacked" "$folder"
