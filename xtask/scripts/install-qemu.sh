#!/usr/bin/env bash
# Installs qemu-system-arm with apt. On Debian bookworm it comes from backports: the one in main would remove qemu-utils,
# and its apt state is kept apart, so that the machine's own sources stay as they are.
set -euo pipefail
command -v qemu-system-arm >/dev/null && { qemu-system-arm --version | head -1; exit 0; }
command -v apt-get >/dev/null || { echo "install qemu-system-arm (QEMU 8 or newer) with this system's package manager" >&2; exit 1; }
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
. /etc/os-release
if [ "${VERSION_CODENAME:-}" != bookworm ]; then
  $sudo apt-get -q update
  $sudo apt-get -q install -y --no-install-recommends qemu-system-arm
  exit 0
fi
uri=$( (cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true) | grep -oE '(http|https)://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ')
[ -n "$uri" ] || { echo "no Debian mirror in /etc/apt: install qemu-system-arm from bookworm-backports by hand" >&2; exit 1; }
w=$(mktemp -d); trap 'rm -rf "$w"' EXIT; mkdir -p "$w"/lists/partial "$w"/cache/archives/partial
key=/usr/share/keyrings/debian-archive-keyring.gpg
for s in bookworm bookworm-backports; do echo "deb [signed-by=$key] $uri $s main"; done > "$w/sources.list"
echo "deb [signed-by=$key] ${uri%/}-security bookworm-security main" >> "$w/sources.list"
opts="-q -o Dir::Etc::sourcelist=$w/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$w/lists -o Dir::Cache=$w/cache -o APT::Sandbox::User=root"
$sudo apt-get $opts update
DEBIAN_FRONTEND=noninteractive $sudo apt-get $opts install -y --no-install-recommends -t bookworm-backports qemu-system-arm
