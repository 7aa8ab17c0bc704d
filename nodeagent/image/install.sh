#!/usr/bin/env bash
# Makes this machine the root of a Milpa node image: packages, the agent with its Python packages, its service.
# Run as root on a fresh Debian 12, booted or in a chroot. Running it again changes nothing but what is out of date.
#
#   install.sh [--wheels DIR] [--clean]
#
# DIR holds the wheels that wheelhouse.sh made (default: wheels beside this script): no package index is asked.
# --clean removes what must not be in an image: identities, keys, caches, logs. Give it last, just before the snapshot.
# The agent is enabled and never started here: it belongs to the instances that are launched from the image.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wheels=$here/wheels
clean=no
venv=/opt/milpa-agent
python=python3.11

say() { printf 'install: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --wheels)
        [ $# -ge 2 ] || fail "--wheels needs a folder"
        wheels=$2
        shift 2
        ;;
    --clean)
        clean=yes
        shift
        ;;
    *) fail "unknown argument '$1'; usage: install.sh [--wheels DIR] [--clean]" ;;
    esac
done

compgen -G "$wheels/milpa_ray-*.whl" >/dev/null || fail "no wheel of milpa-ray in $wheels: make them with wheelhouse.sh"
[ "$(id -u)" -eq 0 ] || fail "must run as root"
command -v apt-get >/dev/null || fail "this is no Debian: there is no apt-get"

# Whether a service manager runs here: not in a chroot, nor while an image is put together without booting it.
booted() {
    [ -d /run/systemd/system ] && ! systemctl is-system-running 2>/dev/null | grep -qx offline
}

install_packages() {
    local package missing=()
    while read -r package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done <"$here/packages"
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

install_agent() {
    # Its own environment, so that neither Debian's Python packages nor a unit's can change what the agent runs with.
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    local pip=("$venv/bin/python" -m pip --isolated --disable-pip-version-check --no-input install
        --quiet --no-index --find-links "$wheels" --no-deps)
    "${pip[@]}" --requirement "$here/requirements.txt"
    # Also when its version has not changed: between releases many builds have the same one.
    "${pip[@]}" --force-reinstall milpa-ray
    "$venv/bin/python" -m nodeagent --help >/dev/null
}

install_service() {
    install -m 0644 "$here/milpa-agent.service" /etc/systemd/system/milpa-agent.service
    install -D -m 0644 "$here/cloud-init.cfg" /etc/cloud/cloud.cfg.d/99-milpa.cfg
    systemctl --quiet enable milpa-agent.service
    # An instance lives as long as its pod; updates come with the next image and cost no CPU credits at boot.
    systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer
    if booted; then
        systemctl daemon-reload
        say "the agent is enabled; it starts when an instance boots from this image"
    else
        say "no service manager runs here: the agent is enabled only"
    fi
}

clean_up() {
    say "removing what must not be in an image"
    if command -v cloud-init >/dev/null; then
        cloud-init clean --logs --seed
    fi
    apt-get clean
    find /var/lib/apt/lists -mindepth 1 -delete
    # An empty machine-id is made anew at boot, an absent one would make systemd take each boot for the first.
    : >/etc/machine-id
    rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
    rm -rf /var/lib/milpa /run/milpa
    rm -f /root/.bash_history /home/*/.bash_history
    find /var/log -type f -exec truncate --size 0 {} +
}

install_packages
install_agent
install_service
if [ "$clean" = yes ]; then clean_up; fi
say "done"
