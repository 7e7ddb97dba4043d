#!/usr/bin/env bash
# The tracking server's PostgreSQL: prepared, served and backed up. One of
#   prepare   make the database's directory: as it is, restored from the backup, or new
#   serve     run PostgreSQL (in the foreground)
#   ready     wait for it; make role and database, and the first backup, where there are none
#   backup    a full backup now; the last three are kept
# Between full backups every change is sent on within a minute, so that no more than that is lost when
# a machine dies, and nothing when it is stopped. The environment says where: BACKUP (s3://BUCKET/PREFIX),
# DATA (directory), SOCKET (directory), OWNER (the user MLflow runs as), BIN (PostgreSQL's
# programs), and for other stores than AWS, ENDPOINT (its URL). barman-cloud does the copying.
set -euo pipefail
shopt -s inherit_errexit

: "${BACKUP:?}" "${DATA:?}" "${SOCKET:?}" "${OWNER:?}" "${BIN:?}"
export PATH=$BIN:$PATH
SERVER=tracking
STORE=(${ENDPOINT:+--endpoint-url "$ENDPOINT"})
KEEP=3

sql() { psql --quiet --no-align --tuples-only --host "$SOCKET" --dbname postgres --command "$1"; }

configure() {
  local archive="barman-cloud-wal-archive ${STORE[*]} --gzip $BACKUP $SERVER %p"
  cat > "$DATA/tracking.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$SOCKET'
unix_socket_permissions = 0777
archive_mode = on
archive_command = 'PATH=$BIN:\$PATH $archive'
archive_timeout = 60
restore_command = 'PATH=$BIN:\$PATH barman-cloud-wal-restore ${STORE[*]} $BACKUP $SERVER %f %p'
max_connections = 60
CONF
  grep -q tracking.conf "$DATA/postgresql.conf" ||
    echo "include = 'tracking.conf'" >> "$DATA/postgresql.conf"
  # Who a process of this machine is, the kernel says; there are no passwords.
  echo "local all all peer" > "$DATA/pg_hba.conf"
}

newest_backup() {
  local listed
  listed=$(barman-cloud-backup-list "${STORE[@]}" --format json "$BACKUP" "$SERVER")
  python3 - "$listed" <<'PYTHON'
import json
import sys

done = [one for one in json.loads(sys.argv[1])["backups_list"] if one.get("status", "DONE") == "DONE"]
print(max((one["backup_id"] for one in done), default=""))
PYTHON
}

prepare() {
  if [ -s "$DATA/PG_VERSION" ]; then
    configure # as it was left, after a restart
    return
  fi
  mkdir -p "$DATA.new"
  chmod 700 "$DATA.new"
  local newest
  newest=$(newest_backup) # fails, and the service with it, where the store cannot be asked
  if [ -n "$newest" ]; then
    rm -rf "$DATA.new"
    barman-cloud-restore "${STORE[@]}" "$BACKUP" "$SERVER" "$newest" "$DATA.new"
    touch "$DATA.new/recovery.signal"
    rm -f "$DATA.new/backed-up"
  else
    initdb --auth peer --encoding UTF8 --locale C.UTF-8 "$DATA.new" > /dev/null
  fi
  mv "$DATA.new" "$DATA"
  configure
}

ready() {
  for _ in $(seq 600); do
    [ "$(sql 'SELECT pg_is_in_recovery()' 2> /dev/null)" = f ] && break
    sleep 1
  done
  [ -n "$(sql "SELECT 1 FROM pg_roles WHERE rolname = '$OWNER'")" ] || sql "CREATE ROLE \"$OWNER\" LOGIN"
  [ -n "$(sql "SELECT 1 FROM pg_database WHERE datname = 'mlflow'")" ] ||
    sql "CREATE DATABASE mlflow OWNER \"$OWNER\""
  # Also after a restore: the log goes on from here, and the next restore starts here.
  if [ ! -e "$DATA/backed-up" ]; then
    backup
    touch "$DATA/backed-up"
  fi
}

backup() {
  barman-cloud-backup "${STORE[@]}" --gzip --host "$SOCKET" --immediate-checkpoint "$BACKUP" "$SERVER"
  barman-cloud-backup-delete "${STORE[@]}" --retention-policy "REDUNDANCY $KEEP" "$BACKUP" "$SERVER"
}

case "${1:-}" in
  prepare | ready | backup) "$1" ;;
  serve) exec postgres -D "$DATA" ;;
  *) sed -n 2,6p "$0" >&2 && exit 2 ;;
esac
