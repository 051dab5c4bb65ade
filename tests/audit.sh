#!/bin/sh
# Asks whether something that lb-probe installs (requirements/run.txt) has a known vulnerability.
# Fails where one is known. Where nobody can be asked, offline or behind a mirror that knows of none,
# it says so and ends well: a gate must not depend on a server elsewhere.
set -u
list=${1:-requirements/run.txt}
found=$(timeout 60 pip-audit --disable-pip --progress-spinner off --timeout 5 \
  --format columns --requirement "$list" 2>&1)
code=$?
unknown=$(printf '%s\n' "$found" | grep -c 'could not be audited')
case $code:$found in
  0:*)
    if [ "$unknown" = 0 ]; then
      echo "audit: no known vulnerability in $list"
    else
      echo "audit: nobody here knows of $unknown packages of $list; of the others none is known"
    fi
    ;;
  1:*'known vulnerabilit'*)
    printf '%s\n' "$found"
    exit 1
    ;;
  *)
    echo "audit: not asked: $(printf '%s\n' "$found" | tail -n 1 | cut -c 1-200)"
    ;;
esac
