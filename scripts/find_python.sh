#!/bin/sh
# Prints the Python that makes the environment: the one named, or the first that will do. Where there
# is none, one line says what to install.
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
makes_environments='import ensurepip, venv'
lacking=
named=$1
if [ -z "$named" ]; then
    set -- python3 python3.11 python3.12 python3.13 python3.14 python
fi

for python in "$@"; do
    if command -v "$python" >/dev/null 2>&1 && "$python" -c "$new_enough" >/dev/null 2>&1; then
        if "$python" -c "$makes_environments" >/dev/null 2>&1; then
            echo "$python"
            exit 0
        fi
        lacking=$python
    fi
done

if [ -n "$lacking" ]; then
    echo "set-up stopped: $lacking has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)" >&2
elif [ -n "$named" ]; then
    echo "set-up stopped: $named is not a Python 3.11 or newer: name another with make PYTHON=..." >&2
else
    echo "set-up stopped: no Python 3.11 or newer found: install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it with make PYTHON=..." >&2
fi
exit 1
