#!/bin/sh
# What the host itself must offer: `host.sh python PYTHON | demo | test | bench | package`. Installs missing Debian packages
# where it may, announced, and starts no service; where it may not, it says what to type and lets the rest go on.
set -eu

say() { printf '%s\n' "$*" >&2; }

# one line per need: program to look for, Debian package, what is missing without it
needs() {
    case $1 in
    demo)
        echo 'dbus-daemon dbus the-pole-of-the-demo'
        ;;
    test)
        echo 'mosquitto mosquitto the-tests-with-a-real-broker'
        echo 'mosquitto_sub mosquitto-clients the-tests-with-a-real-broker'
        echo 'dbus-daemon dbus the-Bluetooth-tests'
        echo 'chromium chromium the-tests-of-the-page'
        echo 'font:Noto-Sans-CJK fonts-noto-cjk readable-Japanese-in-screenshots'
        echo 'systemd-analyze systemd the-tests-of-the-units'
        echo 'faketime faketime the-tests-of-a-wrong-clock'
        ;;
    bench)
        echo 'mosquitto mosquitto the-benchmarks-of-a-whole-gateway'
        ;;
    package)
        echo 'systemd-analyze systemd the-test-of-the-package'
        echo 'systemd-nspawn systemd-container the-test-of-the-package'
        echo 'mmdebstrap mmdebstrap the-test-of-the-package'
        ;;
    esac
}

has() {
    case $1 in
    font:*) ls /usr/share/fonts/opentype/noto/NotoSansCJK* >/dev/null 2>&1 || fc-list 2>/dev/null | grep -q 'Noto Sans CJK' ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# While packages are configured, policy-rc.d (exit 101) keeps every one of their services from starting; an own one comes back after.
install() {
    say "installing Debian packages (no service is started): $*"
    as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
        policy=/usr/sbin/policy-rc.d
        back() { rm -f "$policy"; [ ! -e "$policy.edge-gateway" ] || mv "$policy.edge-gateway" "$policy"; }
        [ ! -e "$policy" ] || mv "$policy" "$policy.edge-gateway"
        trap back EXIT
        trap "exit 130" HUP INT TERM
        printf "#!/bin/sh\nexit 101\n" >"$policy"
        chmod 755 "$policy"
        get() { apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" >/dev/null; }
        # lists of packages may be missing or old: ask for new ones only when they are needed
        get install -y --no-install-recommends "$@" 2>/dev/null ||
            { get update && get install -y --no-install-recommends "$@"; }
        case " $* " in
        *" mosquitto "*) ! command -v systemctl >/dev/null || systemctl --quiet disable mosquitto.service >&2 || : ;;  # nor at the next boot
        esac
    ' sh "$@"
}

provide() {
    missing=$(needs "$1" | while read -r program package rest; do has "$program" || echo "$package"; done | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list of words
    if may_install && install $missing; then
        return 0
    fi
    needs "$1" | while read -r program package rest; do
        has "$program" || say "not here: $package; without it this is left out: $(echo "$rest" | tr - ' ')"
    done
    say "to add it, as root:  apt-get install --no-install-recommends $missing"
}

python_for_venv() {
    if ! command -v "$1" >/dev/null; then
        ! may_install || install python3 python3-venv || :
    fi
    if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "$1 is not Python 3.11 or newer: make PYTHON=/path/to/python3.11"
        exit 1
    fi
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        ! may_install || install python3-venv || :
        if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
            say "$1 cannot make a virtual environment; as root:  apt-get install python3-venv"
            exit 1
        fi
    fi
    say "making .venv with $("$1" --version); the packages come next (12 MB for the demo, 110 MB for the tests)"
}

case ${1:-} in
python) python_for_venv "$2" ;;
demo | test | bench | package) provide "$1" ;;
*)
    say "usage: $0 python PYTHON | demo | test | bench | package"
    exit 2
    ;;
esac
