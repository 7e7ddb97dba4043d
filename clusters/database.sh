#!/usr/bin/env bash
# The tracking server's PostgreSQL: prepared, served and backed up. One of
#   prepare   claim the backups; make the database's directory: as it is, restored from them, or new
#   serve     run PostgreSQL (in the foreground)
#   ready     wait for it; make role and database, and the first backup, where there are none
#   backup    a full backup now; the last twelve are kept
#   renew     say that the head which owns the backups is at work: once a minute
#   release   give the backups up, so that the next head need not wait
# PostgreSQL itself calls `send FILE` and `fetch NAME FILE` for its log.
# Between full backups every change is sent on within a minute, so that no more than that is lost when
# a machine dies, and nothing when it is stopped. The environment says where: BACKUP (s3://BUCKET/PREFIX),
# HEAD (this machine's name), DATA (directory), SOCKET (directory), OWNER (the user MLflow runs as), BIN
# (PostgreSQL's programs), for `ready` MAINPID (the server's process), for other stores than AWS ENDPOINT
# (its URL), and for other PAUSES than 2, 10 and 20 seconds between tries to fetch.
# barman-cloud does the copying, backup_owner.py beside this script keeps two heads apart.
set -euo pipefail
shopt -s inherit_errexit

: "${BACKUP:?}" "${HEAD:?}" "${DATA:?}" "${SOCKET:?}" "${OWNER:?}" "${BIN:?}"
export PATH=$BIN:$PATH
SELF=$(realpath "${BASH_SOURCE[0]}")
SERVER=tracking
STORE=(${ENDPOINT:+--endpoint-url "$ENDPOINT"})
KEEP=12

sql() { psql --quiet --no-align --tuples-only --host "$SOCKET" --dbname postgres --command "$1"; }

owner() { /usr/bin/python3 "$(dirname "$SELF")/backup_owner.py" "$1"; }

configure() {
  cat > "$DATA/tracking.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$SOCKET'
unix_socket_permissions = 0777
archive_mode = on
archive_command = 'bash $SELF send %p'
archive_timeout = 60
restore_command = 'bash $SELF fetch %f %p'
max_connections = 60
CONF
  grep -q tracking.conf "$DATA/postgresql.conf" ||
    echo "include = 'tracking.conf'" >> "$DATA/postgresql.conf"
  # Who a process of this machine is, the kernel says; there are no passwords.
  echo "local all all peer" > "$DATA/pg_hba.conf"
}

send() {
  owner check
  barman-cloud-wal-archive "${STORE[@]}" --gzip "$BACKUP" "$SERVER" "$1"
}

# PostgreSQL takes every exit of up to 125 for the log's end, and goes on from there as if the rest had
# never been. So that is said only where the store itself says it: 1, of a program that works (Python
# ends with 1 too where it cannot begin). Whatever else goes wrong is tried again, and then ends
# PostgreSQL (above 125); the restore goes on when the service starts again.
fetch() {
  local pause code restore=(barman-cloud-wal-restore "${STORE[@]}")
  for pause in ${PAUSES:-2 10 20} 0; do
    code=0
    "${restore[@]}" "$BACKUP" "$SERVER" "$1" "$2" || code=$?
    [ "$code" != 0 ] || exit 0
    if [ "$code" = 1 ] && "${restore[@]}" --test "$BACKUP" "$SERVER" "$1" "$2"; then exit 1; fi
    sleep "$pause"
  done
  echo "$1 cannot be fetched from the backup ($code)" >&2
  exit 200
}

# A restored database is on a timeline of its own. So the newest backup is one of the highest timeline: a
# younger one on a lower is of a head that had lost the backups to another while it made it.
newest_backup() {
  local listed
  listed=$(barman-cloud-backup-list "${STORE[@]}" --format json "$BACKUP" "$SERVER")
  python3 - "$listed" <<'PYTHON'
import json
import sys

done = [one for one in json.loads(sys.argv[1])["backups_list"] if one.get("status", "DONE") == "DONE"]
if done:
    system = max(done, key=lambda one: one["backup_id"])["systemid"]
    same = [one for one in done if one["systemid"] == system]
    print(max((one["timeline"], one["backup_id"]) for one in same)[1])
PYTHON
}

prepare() {
  local claim newest
  claim=$(owner claim)
  if [ -s "$DATA/PG_VERSION" ] && [ "$(cat "$DATA/claim" 2> /dev/null)" = "$claim" ]; then
    configure # as it was left, after a restart
    return
  fi
  newest=$(newest_backup) # fails, and the service with it, where the store cannot be asked
  rm -rf "$DATA.new"
  if [ -n "$newest" ]; then
    barman-cloud-restore "${STORE[@]}" "$BACKUP" "$SERVER" "$newest" "$DATA.new"
    touch "$DATA.new/recovery.signal"
    rm -f "$DATA.new/backed-up"
    if [ -s "$DATA/PG_VERSION" ]; then
      echo "The backups went on with another head: $DATA is set aside as $DATA.outdated-$claim" >&2
      mv "$DATA" "$DATA.outdated-$claim"
    fi
  elif [ ! -s "$DATA/PG_VERSION" ]; then
    initdb --auth peer --encoding UTF8 --locale C.UTF-8 "$DATA.new" > /dev/null
  fi
  [ ! -e "$DATA.new" ] || mv "$DATA.new" "$DATA"
  configure
  echo "$claim" > "$DATA/claim"
}

ready() {
  # However long a restore takes, but no longer than PostgreSQL lives.
  until [ "$(sql 'SELECT pg_is_in_recovery()' 2> /dev/null)" = f ]; do
    if ! kill -0 "${MAINPID:?}" 2> /dev/null; then
      echo "PostgreSQL ended before it was ready" >&2
      exit 1
    fi
    sleep 1
  done
  [ -n "$(sql "SELECT 1 FROM pg_roles WHERE rolname = '$OWNER'")" ] || sql "CREATE ROLE \"$OWNER\" LOGIN"
  [ -n "$(sql "SELECT 1 FROM pg_database WHERE datname = 'mlflow'")" ] ||
    sql "CREATE DATABASE mlflow OWNER \"$OWNER\""
  # Also after a restore, so that the next one starts here, and in another bucket.
  [ "$(cat "$DATA/backed-up" 2> /dev/null)" = "$BACKUP" ] || backup
}

backup() {
  owner check
  barman-cloud-backup "${STORE[@]}" --gzip --host "$SOCKET" --immediate-checkpoint "$BACKUP" "$SERVER"
  echo "$BACKUP" > "$DATA/backed-up" # its time is that of the last backup
  barman-cloud-backup-delete "${STORE[@]}" --retention-policy "REDUNDANCY $KEEP" "$BACKUP" "$SERVER"
}

case "${1:-}" in
  prepare | ready | backup) "$1" ;;
  send | fetch) "$@" ;;
  renew | release) owner "$1" ;;
  serve) exec postgres -D "$DATA" ;;
  *) sed -n 2,9p "$0" >&2 && exit 2 ;;
esac
