#!/usr/bin/env bash
# Sets prismlink up as services of systemd. See docs/operations.md.
set -euo pipefail

usage() {
    cat <<'END'
usage: install.sh [[--locked] [--wheel FILE] | --venv DIR] [--python PROGRAM] [--root DIR]
       install.sh --uninstall [--purge] [--root DIR]

Makes a virtual environment in /opt/prismlink with prismlink in it, the user prismlink, settings and
keys in /etc/prismlink, models in /var/lib/prismlink, and two units. What is there already stays:
settings, keys and models are never overwritten; program and units are replaced. Nothing is started,
and what runs goes on with the old program until it is restarted.

  --wheel FILE      install this wheel; else the checkout that this script is part of
  --locked          install exactly the packages of requirements.lock beside this script, each checked by its
                    hash: Python 3.11 on Linux x86_64
  --venv DIR        install nothing, use this environment: /opt/prismlink is a link to it
  --python PROGRAM  what makes the environment (python3)
  --root DIR        work under DIR instead of /, for an image that has the environment of --venv at the same place
  --uninstall       stop the services; remove units, environment and caches; keep settings, keys,
                    models, what waits and what came, and the user
  --purge           with --uninstall: remove those, too

Packages come as pip finds them: PIP_NO_INDEX and PIP_FIND_LINKS serve where there is no network.
END
}

fail() {
    echo "install.sh: $1" >&2
    exit "${2:-1}"
}

root='' wheel='' venv='' python=python3 locked='' uninstall='' purge='' upgrade=''
while (($#)); do
    case $1 in
        --root | --wheel | --venv | --python)
            (($# > 1)) || fail "$1 needs a value" 2
            declare "${1#--}=$2"
            shift
            ;;
        --locked) locked=yes ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help)
            usage
            exit
            ;;
        *)
            usage >&2
            fail "$1 is not known" 2
            ;;
    esac
    shift
done

((EUID == 0)) || fail "needs root"
[[ -z $wheel || -z $venv ]] || fail "--wheel and --venv exclude each other" 2
[[ -z $locked || -z $venv ]] || fail "--locked and --venv exclude each other" 2
[[ -z $purge || -n $uninstall ]] || fail "--purge goes with --uninstall" 2
[[ -n $uninstall || -z $root || -n $venv ]] ||
    fail "--root needs --venv: an environment does not work in another place than it was made for" 2
[[ -z $venv || $venv == /* ]] || fail "--venv should be an absolute path" 2
[[ -z $venv || -x $venv/bin/prismlink ]] || fail "$venv/bin/prismlink is not there"
root=${root%/}
[[ -z $root || -d $root ]] || fail "$root is not a directory"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
opt=$root/opt/prismlink etc=$root/etc/prismlink units=$root/etc/systemd/system
state=$root/var/lib/prismlink cache=$root/var/cache/prismlink
services=(prismlink-flight.service prismlink-ground.service)

systemd_runs() { [[ -z $root && -d /run/systemd/system ]]; }

remove_environment() {
    if [[ -L $opt ]]; then
        rm "$opt"
    elif [[ -e $opt ]]; then
        [[ -f $opt/pyvenv.cfg ]] || fail "$opt is no virtual environment; remove it yourself"
        rm -r "$opt"
    fi
}

if [[ -n $uninstall ]]; then
    if systemd_runs; then
        for service in "${services[@]}"; do
            [[ ! -e $units/$service ]] || systemctl disable --now "$service"
        done
    fi
    for service in "${services[@]}"; do
        rm -f "$units/$service" "$units/multi-user.target.wants/$service"
    done
    remove_environment
    rm -rf "$cache" "$root/run/prismlink"
    if [[ -n $purge ]]; then
        rm -rf "$etc" "$state"
        rm -rf "$units"/prismlink-{flight,ground}.service.d
        if grep -q '^prismlink:' "$root/etc/passwd" 2>/dev/null; then
            userdel --prefix "${root:-/}" prismlink
        fi
        echo "removed everything"
    else
        echo "kept: $etc, $state, the user prismlink; --uninstall --purge removes them"
    fi
    ! systemd_runs || systemctl daemon-reload
    exit
fi

# ---------------------------------------------------------------- the program

install -d "$root/opt"
if [[ -n $venv ]]; then
    remove_environment
    ln -s "$venv" "$opt"
else
    [[ ! -L $opt ]] || rm "$opt"
    [[ -x $opt/bin/python ]] || "$python" -m venv "$opt" ||
        fail "$python makes no virtual environments; on Debian: apt-get install python3-venv"
    [[ ! -x $opt/bin/prismlink ]] || upgrade=yes
    if [[ -n $locked ]]; then
        "$opt/bin/python" -m pip install --require-hashes --only-binary :all: -r "$here/requirements.lock"
        # A checkout is built by the setuptools of that list: another would come unchecked.
        "$opt/bin/python" -m pip install --no-deps --no-index --no-build-isolation --force-reinstall \
            "${wheel:-$here/..}"
    else
        "$opt/bin/python" -m pip install --upgrade "${wheel:-$here/..}[ground,gpu]"
        # Of a wheel pip takes nothing where one of the same version is installed: it may have been rebuilt.
        [[ -z $wheel || -z $upgrade ]] ||
            "$opt/bin/python" -m pip install --force-reinstall --no-deps "$wheel"
    fi
fi

# ---------------------------------------------------------------- the user

install -d "$root/etc"
systemd-sysusers --root="${root:-/}" --inline \
    'u prismlink - "prismlink daemons" /var/lib/prismlink /usr/sbin/nologin'
owner=$(awk -F: '$1 == "prismlink" { print $3 ":" $4 }' "$root/etc/passwd")
[[ -n $owner ]] || fail "the user prismlink could not be made"

# ---------------------------------------------------------------- what it works with

# Puts standard input there, unless something is; who may read it: root and the daemons.
put_new() {
    if [[ ! -e $1 ]]; then
        (umask 077 && cat >"$1.new")
        chown "0:${owner#*:}" "$1.new"
        chmod 640 "$1.new"
        mv "$1.new" "$1"
        echo "made $1"
    elif ! cmp -s "$1" -; then
        echo "kept $1, which is not what this version would make"
    fi
}

# Puts a value where the settings that ship have another one.
set_key() {
    grep -q "^$1" "$settings" || fail "$here: no line '$1' in the settings"
    sed -i "s|^$1|$2|" "$settings"
}

install -d -m 755 "$etc"
install -d -m 700 "$etc/keys"
install -d -m 750 -o "${owner%:*}" -g "${owner#*:}" "$state" "$state/models" "$cache"
for model in default.flight default; do
    put_new "$state/models/$model.safetensors" <"$here/models/$model.safetensors"
done

settings=$(mktemp)
trap 'rm -f "$settings"' EXIT
lib=/var/lib/prismlink

cp "$here/flight.yaml" "$settings"
set_key '  bundle: models/' "  bundle: $lib/models/"
set_key '  kind: memory' '  kind: disk  '
set_key '  directory: null  *' "  directory: $lib/flight/spool  "
set_key '  uplink: null' '  uplink: {}  '
put_new "$etc/flight.yaml" <"$settings"

cp "$here/ground.yaml" "$settings"
set_key '    - models/' "    - $lib/models/"
set_key '  uplink: null' '  uplink: {}  '
set_key '  directory: null  *' "  directory: $lib/ground/archive  "
set_key '  directory: ../output  *' "  directory: $lib/ground/cubes  "
put_new "$etc/ground.yaml" <"$settings"

if [[ -z $(ls -A "$etc/keys") ]]; then
    "${venv:-$opt}/bin/prismlink" keys "$etc/keys" >/dev/null
    echo "made $etc/keys, which no setting names yet: docs/security.md"
fi

# ---------------------------------------------------------------- the units

install -d "$units"
for service in "${services[@]}"; do
    install -m 644 "$here/$service" "$units/$service"
done
! systemd_runs || systemctl daemon-reload
if [[ -n $upgrade ]]; then
    echo "what runs is still the old program: systemctl try-restart ${services[*]%.service}"
else
    echo "start them with: systemctl enable --now prismlink-flight (or prismlink-ground)"
fi
