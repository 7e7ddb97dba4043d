#!/usr/bin/env bash
# upgrade_mlflow.sh ENVIRONMENT DATABASE-URL: after a full backup, upgrade the tracking server's tables to the
# version of MLflow in the virtual environment, which refuses to serve older ones. Run as root before each start
# of MLflow; does nothing if the same version served the database before.
set -euo pipefail

ENVIRONMENT=$1
URL=$2
: "${DATA:?}" "${OWNER:?}"
HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
VERSION=$("$ENVIRONMENT/bin/python" -c 'from importlib.metadata import version; print(version("mlflow"))')
# In the database's directory, so that a backup has both or neither; owned by the user who makes the backups.
MARK=$DATA/mlflow-version
as_postgres() { runuser -u postgres -- "$@"; }
mark() { as_postgres tee "$MARK" <<< "$1" > /dev/null; }

was=$(cat "$MARK" 2> /dev/null || true)
[ "$was" != "$VERSION" ] || exit 0
# Once only, even if the upgrade fails and is retried: further backups would displace the older ones.
if [ "$was" != "before $VERSION" ]; then
  as_postgres bash "$HERE/../database.sh" backup
  mark "before $VERSION"
fi
runuser -u "$OWNER" -- "$ENVIRONMENT/bin/mlflow" db upgrade "$URL"
mark "$VERSION"
