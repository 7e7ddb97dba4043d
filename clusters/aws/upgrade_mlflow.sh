#!/usr/bin/env bash
# upgrade_mlflow.sh MLFLOW DATABASE-URL: bring the tracking server's tables to the version of MLflow that the
# environment MLFLOW holds, which refuses to serve older ones; a full backup first. As root, before each start
# of MLflow; does something only where the database was last served by another version.
set -euo pipefail

ENVIRONMENT=$1
URL=$2
: "${DATA:?}" "${OWNER:?}"
HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
VERSION=$("$ENVIRONMENT/bin/python" -c 'from importlib.metadata import version; print(version("mlflow"))')
# Beside the tables, so that a backup holds both or neither; and the user's who makes the backups.
MARK=$DATA/mlflow-version
as_postgres() { runuser -u postgres -- "$@"; }
mark() { as_postgres tee "$MARK" <<< "$1" > /dev/null; }

was=$(cat "$MARK" 2> /dev/null || true)
[ "$was" != "$VERSION" ] || exit 0
# Once, also where the upgrade fails and is tried again: backups of what it left would push out the older ones.
if [ "$was" != "before $VERSION" ]; then
  as_postgres bash "$HERE/../database.sh" backup
  mark "before $VERSION"
fi
runuser -u "$OWNER" -- "$ENVIRONMENT/bin/mlflow" db upgrade "$URL"
mark "$VERSION"
