#!/usr/bin/env bash
# idle_head.sh HOURS: power off the head, which terminates it, after HOURS without worker machines, running
# studies and logged-in users. The bucket has a copy of the tracking store.
set -euo pipefail

HOURS=$1
MARK=/run/head-last-used
[ -e "$MARK" ] || touch "$MARK"

in_use() {
  # Worker machines and laptops have connections to Ray's port; ignore those of the head itself.
  local own others
  own=$(hostname -I | tr ' ' '\n' | grep -v '^$' | paste -sd'|')
  others=$(ss -Htn state established '( sport = :6379 )' | awk '{print $4}' | grep -Ev "^\[?(::ffff:)?(127\.0\.0\.1|$own)" || true)
  [ -n "$others" ] && return 0
  who | grep -q . && return 0
  pgrep -f 'orchestrator\.(sweep|evaluate|predict)' > /dev/null
}

if in_use; then
  touch "$MARK"
elif [ $(($(date +%s) - $(stat -c %Y "$MARK"))) -gt $((HOURS * 3600)) ]; then
  logger "unused for $HOURS hours; powering off"
  systemctl poweroff
fi
