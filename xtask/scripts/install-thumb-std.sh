#!/usr/bin/env bash
# Puts libcore and liballoc for bare-metal targets into the active toolchain on a machine where `rustup target add`
# cannot download: built from the library source of exactly the compiler's version. Plain stable
# `cargo build --target T` works afterwards.
# usage: install-thumb-std.sh SOURCE.tar.xz|- TARGET...   ("-": take Debian's rust-src with apt)
set -euo pipefail
source=$1; shift
sysroot=$(rustc --print sysroot); version=$(rustc --version | cut -d' ' -f2)
work=${XDG_CACHE_HOME:-$HOME/.cache}/thumb-std-$version; mkdir -p "$work"
[ "$source" = - ] || source=$(realpath "$source")
cd "$work"
if [ ! -d library ]; then
  if [ "$source" != - ]; then tar xf "$source"
  else # the machine's own Debian mirror, suite trixie-backports, in an apt state of its own
    uri=$( (cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true) | grep -oE '(http|https)://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ')
    [ -n "$uri" ] || { echo "no Debian mirror in /etc/apt to take rust-src $version from" >&2; exit 1; }
    mkdir -p apt/lists/partial apt/cache/archives/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie-backports main" > apt/sources.list
    opts="-q -o Dir::Etc::sourcelist=$PWD/apt/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt/cache -o APT::Sandbox::User=root"
    apt-get $opts update; deb=$(apt-cache $opts madison rust-src | awk -v v="$version" '$3 ~ "^"v"[+]" {print $3; exit}')
    [ -n "$deb" ] || { echo "the mirror has no rust-src $version" >&2; exit 1; }
    apt-get $opts download "rust-src=$deb"
    dpkg-deb --fsys-tarfile rust-src_*.deb | tar x --strip-components=4 "./usr/src/rustc-$version/library"
  fi
fi
# alloc pulls core and compiler_builtins only; the other members have dependencies that are not vendored.
grep -q '^members = \["alloc"\]' library/Cargo.toml || sed -i '/^members = \[/,/^\]/c members = ["alloc"]' library/Cargo.toml
args=""; for t in "$@"; do args="$args --target $t"; done
cd library
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zforce-unstable-if-unmarked" CARGO_TARGET_DIR=$work/target \
  cargo build --offline --profile dist --manifest-path alloc/Cargo.toml --features compiler-builtins-mem $args
for t in "$@"; do
  dir=$sysroot/lib/rustlib/$t/lib; mkdir -p "$dir"; rm -f "$dir"/lib{core,alloc,compiler_builtins}-*.rlib
  cp "$work/target/$t/dist/deps/"lib{core,alloc,compiler_builtins}-*.rlib "$dir"/
done
echo "installed for rustc $version: $*"
