#!/usr/bin/env bash
# check_head.sh URL: once a minute, as root. Renews the head's claim to the backups, starts an MLflow
# (at URL) that hangs again, and says what is wrong with the tracking server, a line each:
#   journalctl -u tracking-check
set -euo pipefail

URL=$1
: "${DATA:?}" "${SOCKET:?}" "${BIN:?}"
HERE=$(dirname "${BASH_SOURCE[0]}")
healthy=yes

wrong() {
  echo "$1"
  healthy=no
}

as_postgres() { runuser -u postgres -- "$@"; }

database=$(systemctl is-active tracking-database.service || true)
if [ "$database" = active ] || [ "$database" = activating ]; then
  code=0
  as_postgres bash "$HERE/../database.sh" renew || code=$?
  if [ "$code" = 3 ] && [ "$database" = active ]; then
    # What is written from here on would be in no backup; nobody should believe that it is kept.
    wrong "the backups are another head's; stopping the tracking server of this one"
    systemctl stop mlflow.service tracking-database.service
    exit 1
  fi
  [ "$code" = 0 ] || wrong "the claim to the backups could not be renewed"
fi

if [ "$database" = active ]; then
  stuck=$(as_postgres "$BIN/psql" -Atqh "$SOCKET" -d postgres -c "SELECT last_failed_wal FROM pg_stat_archiver
    WHERE last_failed_time > coalesce(last_archived_time, '-infinity')") || wrong "the database does not answer"
  [ -z "${stuck:-}" ] || wrong "changes do not reach the bucket, from $stuck on: journalctl -u tracking-database"
  [ -n "$(find "$DATA/backed-up" -mmin -2160 2> /dev/null)" ] || wrong "no full backup for 36 hours: journalctl -u tracking-backup"
else
  wrong "the database is $database: journalctl -u tracking-database"
fi

mlflow=$(systemctl is-active mlflow.service || true)
if [ "$mlflow" != active ]; then
  wrong "MLflow is $mlflow: journalctl -u mlflow"
elif ! curl --silent --fail --max-time 20 --retry 2 --retry-all-errors --retry-delay 1 --output /dev/null "$URL/health"; then
  wrong "MLflow does not answer; starting it again"
  systemctl restart mlflow.service
fi
[ "$healthy" = yes ]
