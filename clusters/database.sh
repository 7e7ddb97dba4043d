#!/usr/bin/env bash
# Prepare, serve and back up the tracking server's PostgreSQL. One of
#   prepare   claim the backups; keep the database's directory, restore it from them, or create it
#   serve     run PostgreSQL in the foreground
#   ready     wait for PostgreSQL; create role, database and first backup if they do not exist
#   backup    make a full backup; the last twelve are kept
#   renew     renew this head's claim to the backups: once a minute
#   release   release the backups, so that the next head need not wait
# PostgreSQL itself calls `send FILE` and `fetch NAME FILE` for its log.
# Between full backups every change is uploaded within a minute, so at most a minute is lost if a machine
# fails, and nothing if it is stopped. Environment variables: BACKUP (s3://BUCKET/PREFIX), HEAD (this machine's
# name), DATA (directory), SOCKET (directory), OWNER (the user that runs MLflow), BIN (PostgreSQL's programs);
# for `ready` MAINPID (the server's process); optionally ENDPOINT (URL of a store other than AWS) and PAUSES
# (seconds between attempts to fetch, by default 2, 10 and 20).
# barman-cloud copies the data; backup_owner.py keeps two heads from using the same backups.
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
  # The kernel identifies the user of a local process; there are no passwords.
  echo "local all all peer" > "$DATA/pg_hba.conf"
}

send() {
  owner check
  barman-cloud-wal-archive "${STORE[@]}" --gzip "$BACKUP" "$SERVER" "$1"
}

# PostgreSQL takes an exit status of up to 125 for the end of the log, and discards what follows. So return
# it only if the store itself says that the file does not exist: status 1, confirmed by --test (Python also
# exits with 1 if it cannot start). Retry any other error; if it persists, exit above 125, which ends
# PostgreSQL, and the restore continues when the service restarts.
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

# Each restore starts a new timeline, so the newest backup is the last one of the highest timeline. A later
# backup of a lower timeline was made by a head that had meanwhile lost the backups to another.
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
    configure # after a restart: keep the directory
    return
  fi
  newest=$(newest_backup) # if the store does not respond, this fails, and so does the service
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
  # Wait for a restore of any duration, as long as PostgreSQL runs.
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
  # Also after a restore, so that the next one starts from here, and after a change of the bucket.
  [ "$(cat "$DATA/backed-up" 2> /dev/null)" = "$BACKUP" ] || backup
}

backup() {
  owner check
  barman-cloud-backup "${STORE[@]}" --gzip --host "$SOCKET" --immediate-checkpoint "$BACKUP" "$SERVER"
  echo "$BACKUP" > "$DATA/backed-up" # its modification time is that of the last backup
  barman-cloud-backup-delete "${STORE[@]}" --retention-policy "REDUNDANCY $KEEP" "$BACKUP" "$SERVER"
}

case "${1:-}" in
  prepare | ready | backup) "$1" ;;
  send | fetch) "$@" ;;
  renew | release) owner "$1" ;;
  serve) exec postgres -D "$DATA" ;;
  *) sed -n 2,9p "$0" >&2 && exit 2 ;;
esac
