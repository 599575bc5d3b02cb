# shellcheck shell=sh
# Shared by the scripts beside it: finds what the build needs and, on Debian and Ubuntu,
# installs what is missing. Sourced, from the repository's root; POSIX sh.

say() {
    printf '%s\n' "$*" >&2
}

# need_rust: a Rust toolchain, or a way to one.
need_rust() {
    command -v cargo >/dev/null 2>&1 && return
    say "longwave is built with Rust, and there is no cargo here: install it from https://rustup.rs"
    exit 1
}

# need THING...: makes sure of every thing; asks before it installs.
need() {
    packages=""
    for thing in "$@"; do
        has "$thing" || packages="$packages $(package_of "$thing")"
    done
    [ -z "$packages" ] || install_packages "$packages"
}

# has THING: is it there? Asks for what it does, not for the package, so that any will do.
has() {
    case $1 in
        alsa | opus) pkg-config --exists "$1" 2>/dev/null ;;
        pip) python3 -m pip --version >/dev/null 2>&1 ;;
        alsa-pulse) ls /usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

package_of() {
    case $1 in
        cc) echo "gcc libc6-dev" ;;
        c++) echo g++ ;;
        node) echo nodejs ;;
        pip) echo python3-pip ;;
        pactl) echo pulseaudio-utils ;;
        alsa-pulse) echo libasound2-plugins ;;
        dpkg-shlibdeps) echo dpkg-dev ;;
        alsa) echo libasound2-dev ;;
        opus) echo libopus-dev ;;
        aarch64-linux-gnu-gcc) echo "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;;
        qemu-aarch64) echo qemu-user ;;
        systemd-analyze) echo systemd ;;
        systemd-nspawn) echo systemd-container ;;
        *) echo "$1" ;;
    esac
}

install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        say "missing, by Debian's names:$1; install them with this system's package manager"
        exit 1
    fi
    root="sudo"
    [ "$(id -u)" -ne 0 ] || root=""
    if [ "${CI:-}" != true ]; then
        agree "$1"
    fi
    say "installing:$1"
    # The names are a list: they must fall apart into words.
    # shellcheck disable=SC2086
    if ! { $root apt-get -qq update &&
        $root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install --yes --no-install-recommends $1 >/dev/null; }; then
        say "could not install:$1; run: apt-get install$1"
        exit 1
    fi
}

# need_crates NAME...: tools that Debian has not, built by cargo.
need_crates() {
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    crates=""
    for crate in "$@"; do
        has "$crate" || crates="$crates $crate"
    done
    [ -n "$crates" ] || return 0
    if [ "${CI:-}" != true ]; then
        say "missing tools:$crates; run: cargo install --locked$crates (or set CI=true to have it done)"
        exit 1
    fi
    # The names are a list: they must fall apart into words.
    # shellcheck disable=SC2086
    cargo install --locked $crates
}

# judge_dependencies: by deny.toml. Licences, sources and bans always; known holes where their list can be
# fetched. Wants cargo-deny.
judge_dependencies() {
    cargo deny --locked check --hide-inclusion-graph licenses bans sources
    if cargo deny --locked fetch db; then
        cargo deny --locked --offline check --hide-inclusion-graph advisories
    else
        say "NOT CHECKED: known holes in the dependencies, whose list could not be fetched"
    fi
}

# agree PACKAGES: asks on a terminal; without one it must not decide for somebody.
agree() {
    if [ ! -t 0 ]; then
        say "missing packages:$1; run: sudo apt-get install$1 (or set CI=true to have it done)"
        exit 1
    fi
    printf 'longwave needs these packages:%s. Install them? [Y/n] ' "$1" >&2
    read -r answer
    case $answer in
        "" | [yY]*) ;;
        *)
            say "nothing installed; when you are ready: sudo apt-get install$1"
            exit 1
            ;;
    esac
}
