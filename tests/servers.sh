#!/bin/sh
# Installs the servers of tests/servers.txt that are missing, where this is Debian and we are root or
# may become root without a password; elsewhere says what will be skipped. It never fails: a test
# that lacks its server says so itself. No service is started, now or at the next boot.
set -eu
list=${1:-$(dirname "$0")/servers.txt}
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=''
while read -r program package what; do
  case $program in '' | '#'*) continue ;; esac
  command -v "$program" >/dev/null && continue
  echo "servers: found no $program (Debian: $package); without it are skipped: $what"
  missing="$missing $package"
done <"$list"
[ "$missing" ] || exit 0

root=''
if ! command -v apt-get >/dev/null; then
  echo "servers: this is no Debian; install them by hand"
  exit 0
elif [ "$(id -u)" != 0 ]; then
  root='sudo -n'
  if ! $root true 2>/dev/null; then
    echo "servers: not root; say: sudo apt-get install --no-install-recommends$missing"
    exit 0
  fi
fi

# Debian starts what it installs, unless this file says no (101). One that is there is left alone.
if [ ! -e "$policy" ]; then
  trap '$root rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
  $root chmod 755 "$policy"
fi

install() {
  $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
install update || echo "servers: the lists of packages could not be renewed"
for package in $missing; do # one by one: what is not to be had does not stop the others
  if install install -y --no-install-recommends "$package" >/dev/null; then
    echo "servers: installed $package"
    for unit in $(dpkg -L "$package" | sed -n 's|.*/systemd/system/\([^@/]*\.service\)$|\1|p'); do
      $root systemctl disable "$unit" >/dev/null 2>&1 || true
    done
  else
    echo "servers: $package could not be installed"
  fi
done
