#!/usr/bin/env bash
# upgrade_mlflow.sh OWNER: bring the tracking server's tables to the installed version of MLflow, which
# refuses to serve older ones. Before each start of MLflow, as root; does something after an upgrade and
# on a new head, a full backup first.
set -euo pipefail

OWNER=$1
MARK=/var/lib/tracking/mlflow-version
VERSION=$(/opt/orchestrator/bin/python -c 'from importlib.metadata import version; print(version("mlflow"))')

[ "$(cat "$MARK" 2> /dev/null)" != "$VERSION" ] || exit 0
systemctl start tracking-backup.service
runuser -u "$OWNER" -- /opt/orchestrator/bin/mlflow db upgrade "postgresql+psycopg2:///mlflow?host=/run/tracking"
echo "$VERSION" > "$MARK"
