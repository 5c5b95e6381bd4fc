#!/usr/bin/env bash
# Installs a program of QEMU's from its package with apt. On Debian bookworm it comes from backports: the qemu-system-arm
# in main would remove qemu-utils; and apt's state is kept apart, so that the machine's own sources stay as they are.
# usage: install-qemu.sh PROGRAM PACKAGE
set -euo pipefail
program=$1; package=$2
command -v "$program" >/dev/null && { "$program" --version | head -1; exit 0; }
command -v apt-get >/dev/null || { echo "install $program (QEMU 8 or newer) with this system's package manager" >&2; exit 1; }
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
. /etc/os-release
if [ "${VERSION_CODENAME:-}" != bookworm ]; then
  $sudo apt-get -q update
  $sudo apt-get -q install -y --no-install-recommends "$package"
  exit 0
fi
uri=$( (cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true) | grep -oE '(http|https)://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ')
[ -n "$uri" ] || { echo "no Debian mirror in /etc/apt: install $package from bookworm-backports by hand" >&2; exit 1; }
w=$(mktemp -d); trap 'rm -rf "$w"' EXIT; mkdir -p "$w"/lists/partial "$w"/cache/archives/partial
key=/usr/share/keyrings/debian-archive-keyring.gpg
for s in bookworm bookworm-backports; do echo "deb [signed-by=$key] $uri $s main"; done > "$w/sources.list"
echo "deb [signed-by=$key] ${uri%/}-security bookworm-security main" >> "$w/sources.list"
opts="-q -o Dir::Etc::sourcelist=$w/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$w/lists -o Dir::Cache=$w/cache -o APT::Sandbox::User=root"
$sudo apt-get $opts update
DEBIAN_FRONTEND=noninteractive $sudo apt-get $opts install -y --no-install-recommends -t bookworm-backports "$package"
