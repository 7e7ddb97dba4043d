#!/usr/bin/env bash
# check_head.sh MLFLOW-URL RAY-URL: run once a minute as root. Renews the head's claim to the backups, restarts
# MLflow if it hangs, and writes a report (/run/head-check/report) with a line for each part: `well`; `waiting`,
# if the problem may resolve itself; or `WRONG`, with exit status 1. A part that does not respond is WRONG only
# after GRACE (5) minutes, because it may be starting, or a single request may have failed.
set -euo pipefail

MLFLOW=$1
RAY=$2
: "${DATA:?}" "${SOCKET:?}" "${BIN:?}"
HERE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
SEEN=${SEEN:-/run/head-check}
GRACE=${GRACE:-5}
BACKUP_HOURS=13 # one is made every 6
healthy=yes
lines=()

well() {
  touch "$SEEN/$1"
  lines+=("well      $1: $2")
}

wrong() {
  lines+=("WRONG     $1: $2")
  healthy=no
}

overdue() { [ -z "$(find "$SEEN/$1" -mmin "-$GRACE")" ]; }

doubtful() {
  [ -e "$SEEN/$1" ] || touch "$SEEN/$1"
  if overdue "$1"; then wrong "$1" "$2"; else lines+=("waiting   $1: $2"); fi
}

report() {
  local verdict="all is well"
  [ "$healthy" = yes ] || verdict="something is wrong"
  printf '%s\n' "$(date --utc '+%F %T UTC'): $verdict" ${lines[@]+"${lines[@]}"} | tee "$SEEN/report.new"
  mv "$SEEN/report.new" "$SEEN/report"
  [ "$healthy" = yes ]
  exit
}

state() { systemctl show --property ActiveState --value "$1.service"; }

as_postgres() { runuser -u postgres -- "$@"; }

sql() { as_postgres "$BIN/psql" --no-psqlrc -Atqh "$SOCKET" -d postgres -c "$1" 2> /dev/null; }

answers() { curl --silent --fail --max-time 15 --output /dev/null "$1"; }

claim() {
  local code=0
  as_postgres bash "$HERE/../database.sh" renew || code=$?
  if [ "$code" = 0 ]; then
    well claim "the backups are this head's"
  elif [ "$code" != 3 ]; then
    doubtful claim "the bucket does not answer: journalctl -u head-check"
  elif [ "$(state tracking-database)" = active ]; then
    # Further writes would not be backed up, so refuse them.
    systemctl stop mlflow.service tracking-database.service
    wrong claim "another head took the backups over, and this one's tracking server is stopped: docs/aws.md, \"Two heads on one bucket\""
    report
  else
    doubtful claim "the backups are another head's: docs/aws.md, \"Two heads on one bucket\""
  fi
}

database() {
  local waiting
  if ! waiting=$(sql "SELECT count(*) FROM pg_ls_archive_statusdir()
      WHERE name LIKE '%.ready' AND modification < now() - interval '$GRACE min'"); then
    doubtful database "it does not answer: journalctl -u tracking-database"
    return
  fi
  well database "it answers"
  if [ "$waiting" = 0 ]; then
    well log "every change of more than $GRACE minutes ago is in the bucket"
  else
    wrong log "$waiting files of changes have waited for the bucket for $GRACE minutes: journalctl -u tracking-database"
  fi
  if [ -n "$(find "$DATA/backed-up" -mmin "-$((BACKUP_HOURS * 60))" 2> /dev/null)" ]; then
    well backup "the last full one was at $(date --utc --reference "$DATA/backed-up" '+%F %T UTC')"
  else
    wrong backup "no full one for $BACKUP_HOURS hours: journalctl -u tracking-backup"
  fi
}

mlflow() {
  if answers "$MLFLOW/health"; then
    well mlflow "it answers"
  else
    doubtful mlflow "it does not answer: journalctl -u mlflow"
    if overdue mlflow && [ "$(state mlflow)" = active ]; then
      systemctl restart --no-block mlflow.service # renewing the claim must not wait for it
    fi
  fi
}

mkdir -p "$SEEN"
claim
case $(state tracking-database) in
  active) database ;;
  activating)
    # A restore may take any time, but repeated starts are a problem.
    if [ "$(systemctl show --property NRestarts --value tracking-database.service)" = 0 ]; then
      lines+=("waiting   database: it is starting; after a restore that takes minutes")
    else
      doubtful database "it has been started again and again: journalctl -u tracking-database"
    fi
    ;;
  *) doubtful database "it is not running: journalctl -u tracking-database" ;;
esac
if [ "$(state tracking-database)" = active ]; then mlflow; fi
if answers "$RAY/api/gcs_healthz"; then
  well ray "it answers"
else
  doubtful ray "its head does not answer: \`ray up\` starts it again"
fi
report
