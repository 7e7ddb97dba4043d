#!/usr/bin/env bash
# setup_node.sh ENVIRONMENT: install the project that contains this script, with the versions of
# constraints.txt, into the virtual environment ENVIRONMENT. Rerun it to install changes.
set -euo pipefail

ENVIRONMENT=$1
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}

[ ! -e ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$(hostname): $PYTHON is $("$PYTHON" --version); Python 3.11 or later is needed (set PYTHON)" >&2
  exit 1
}
if ! "$PYTHON" -m venv "$ENVIRONMENT"; then
  echo "$(hostname): $PYTHON cannot make virtual environments; install its venv package" >&2
  exit 1
fi
"$ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$PROJECT/constraints.txt" --editable "${PROJECT}[cluster,pretrained]"

# For later commands over SSH, such as `ray down`.
LINE="export PATH=$ENVIRONMENT/bin:\$PATH RAY_AUTH_MODE=token"
grep -qxF "$LINE" ~/.bashrc 2> /dev/null || echo "$LINE" >> ~/.bashrc
