# Shared by the scripts in this folder; sourced, never run.
#
# Sets ROOT (the repository) and offers: messages, packages from Debian, and the choice of a compiler for
# wasm32-unknown-unknown. Nothing here builds, and only `apt_install` changes the machine.
# shellcheck shell=bash
# shellcheck disable=SC2034  # constants are for the scripts that source this

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The edition of the plugins (2024) and their bindings generator want at least this compiler.
WASM_RUSTC_MIN=1.85
# What the relay itself is built with at least; `rust-version` in Cargo.toml says the same.
HOST_RUSTC_MIN=1.95
WASM_TARGET=wasm32-unknown-unknown

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# at_least HAVE WANT: compares dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The version of a rustc, as `1.95.0`; empty if it does not run.
rustc_version() { "$1" --version 2>/dev/null | sed -n 's/^rustc \([0-9][0-9.]*\).*/\1/p'; }

# Runs as root: directly, or with sudo if it asks for no password. Fails otherwise.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}
can_be_root() { as_root true; }

has_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Packages of servers start them when they are installed, unless a policy-rc.d forbids it. Ours is there only meanwhile.
# shellcheck disable=SC2016  # the shell that runs it expands it
APT_SCRIPT='
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap "rm -f $policy" EXIT
    trap "exit 1" HUP INT TERM
    printf "#!/bin/sh\nexit 101\n" >"$policy"
    chmod 755 "$policy"
fi
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends --no-remove \
    -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 install "$@" >/dev/null
'

# apt_install PACKAGE...: installs what is missing, removes nothing, asks nothing, starts no service.
# Fails if this is not a system with apt, or if we may not.
apt_install() {
    local package wanted=()
    have apt-get || return 1
    for package in "$@"; do
        has_package "$package" || wanted+=("$package")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    can_be_root || return 1
    if [ -z "${APT_UPDATED:-}" ]; then
        say "apt-get update"
        # A third party's repository that is down must not stop us: the install below says what is missing.
        as_root apt-get -qq -o DPkg::Lock::Timeout=120 update </dev/null >&2 || true
        APT_UPDATED=1
    fi
    say "apt-get install ${wanted[*]}"
    as_root sh -c "$APT_SCRIPT" sh "${wanted[@]}" </dev/null >&2
}

# ---- a compiler for WebAssembly ----------------------------------------------------------------------------
#
# Two ways lead there. The usual one is the target's standard library beside the compiler (rustup, or a package
# of the distribution). Where rustup's servers cannot be reached, Debian's pair rustc-web + rust-web-src brings a
# compiler and the source of its own standard library, which cargo then builds along (`-Zbuild-std`).

DEBIAN_RUSTC=/usr/bin/rustc
DEBIAN_STD=/usr/lib/rustlib/src/rust/library

has_wasm_std() {
    local sysroot
    sysroot=$(rustc --print sysroot 2>/dev/null) && compgen -G "$sysroot/lib/rustlib/$WASM_TARGET/lib/libstd-*.rlib" >/dev/null
}

# Source and compiler must be of one version, and the version new enough.
has_debian_pair() {
    local version
    [ -x "$DEBIAN_RUSTC" ] && [ -e "$DEBIAN_STD/Cargo.lock" ] || return 1
    version=$(rustc_version "$DEBIAN_RUSTC")
    [ -n "$version" ] && at_least "$version" "$WASM_RUSTC_MIN" &&
        [ "$(basename "$(readlink -f "$DEBIAN_STD/..")")" = "rustc-$version" ] && wasm_linker >/dev/null
}

# The linker that rustup ships, else one of LLVM's packages (the newest).
wasm_linker() {
    local sysroot linker
    sysroot=$(rustc --print sysroot 2>/dev/null) || sysroot=/nonexistent
    for linker in "$sysroot"/lib/rustlib/*/bin/rust-lld; do
        [ -x "$linker" ] && printf '%s\n' "$linker" && return 0
    done
    linker=$(compgen -c wasm-ld | sort -V | tail -n 1)
    [ -n "$linker" ] && command -v "$linker"
}

# Prints which way is open: `target`, `debian`, or `none` (and fails).
wasm_way() {
    if has_wasm_std; then
        echo target
    elif has_debian_pair; then
        echo debian
    else
        echo none
        return 1
    fi
}

# wasm_cargo WAY ARGUMENT...: `cargo ARGUMENT... --release --target wasm32-unknown-unknown`, that way.
# Flags meant for the host's compiler or linker are kept away from it, and the profile is the same for whatever is
# built, so that a standard library that was built along serves all of it.
wasm_cargo() {
    local way=$1
    shift
    local settings=(
        CARGO_PROFILE_RELEASE_OPT_LEVEL=3
        CARGO_PROFILE_RELEASE_LTO=fat
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
        CARGO_PROFILE_RELEASE_PANIC=abort
        CARGO_PROFILE_RELEASE_STRIP=symbols
        CARGO_PROFILE_RELEASE_DEBUG=false
    )
    local flags=(--release --target "$WASM_TARGET")
    if [ "$way" = debian ]; then
        settings+=(
            RUSTC="$DEBIAN_RUSTC"
            RUSTC_BOOTSTRAP=1
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$(wasm_linker)"
        )
        flags+=("-Zbuild-std=std,panic_abort")
    fi
    # Vectors: every engine that runs components has them, and scanning text is much of what policies do.
    # Names of this machine's folders are kept out of components, which are given to others. The flags are parted by 0x1f: folders may have blanks.
    local rustflags=(
        -Ctarget-feature=+simd128
        "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
        "--remap-path-prefix=$ROOT=gatepost"
    )
    local registry
    for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
        # The last prefix that fits is taken.
        rustflags+=("--remap-path-prefix=${registry%/}=crates")
    done
    settings+=("CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${rustflags[*]}")")
    env -u RUSTFLAGS -u CARGO_BUILD_TARGET -u RUSTC_WRAPPER "${settings[@]}" \
        cargo "$@" "${flags[@]}"
}
