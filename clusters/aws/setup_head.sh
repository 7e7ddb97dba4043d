#!/usr/bin/env bash
# Set up the head: PostgreSQL, continuously backed up to the bucket, and the MLflow server, both as services
# that restart automatically; a timer that checks them, and one that powers off an unused head. Reads BUCKET
# from ~/cluster.env, and the cluster's name and region from the file that `ray up` writes. Each `ray up` runs
# it again, which applies changes of the project.
set -euo pipefail

PROJECT=~/segmentation-orchestrator
IDLE_HOURS=12
# shellcheck source=/dev/null
source ~/cluster.env
: "${BUCKET:?edit the line \`bucket\` of cluster.yaml}"
if [ "$BUCKET" = my-bucket ]; then
  echo "cluster.yaml still names the bucket 'my-bucket'; put your own there" >&2
  exit 1
fi

NAMES=$(/opt/orchestrator/bin/python -c '
import pathlib, yaml
config = yaml.safe_load(pathlib.Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
print(config["cluster_name"], config["provider"]["region"])')
read -r CLUSTER REGION <<< "$NAMES"

# Prevents Debian's package from creating a database of its own; ours has its own service.
sudo mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' | sudo tee /etc/postgresql-common/createcluster.conf > /dev/null
# shellcheck source=clusters/aws/apt.sh
source "$PROJECT/clusters/aws/apt.sh"
install_packages postgresql-16 barman-cli-cloud python3-boto3

sudo tee /etc/default/tracking > /dev/null <<ENV
BACKUP=s3://$BUCKET/tracking/$CLUSTER
HEAD=$(cat /var/lib/cloud/data/instance-id)
AWS_DEFAULT_REGION=$REGION
DATA=/var/lib/tracking/postgres
SOCKET=/run/tracking
OWNER=$USER
BIN=/usr/lib/postgresql/16/bin
ENV
sudo install -d -o postgres -g postgres -m 750 /var/lib/tracking
sudo install -D -m 755 -t /usr/local/lib/tracking "$PROJECT"/clusters/{database.sh,backup_owner.py}
sudo install -D -m 755 -t /usr/local/lib/tracking/aws "$PROJECT"/clusters/aws/{check_head.sh,upgrade_mlflow.sh}

sudo tee /etc/systemd/system/tracking-database.service > /dev/null <<'UNIT'
[Unit]
Description=PostgreSQL of the tracking server
Wants=network-online.target
After=network-online.target
# Restart without limit.
StartLimitIntervalSec=0

[Service]
User=postgres
RuntimeDirectory=tracking
EnvironmentFile=/etc/default/tracking
ExecStartPre=/usr/local/lib/tracking/database.sh prepare
ExecStart=/usr/local/lib/tracking/database.sh serve
ExecStartPost=/usr/local/lib/tracking/database.sh ready
ExecStopPost=/usr/local/lib/tracking/database.sh release
# A clean stop uploads the end of the log to the bucket: signal the server only, not the upload.
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=300
# A restore may take any time; `ready` fails if the server ends.
TimeoutStartSec=infinity
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT

sudo tee /etc/systemd/system/tracking-backup.service > /dev/null <<'UNIT'
[Unit]
Description=Full backup of the tracking server's database
After=tracking-database.service

[Service]
Type=oneshot
User=postgres
EnvironmentFile=/etc/default/tracking
ExecStart=/usr/local/lib/tracking/database.sh backup
Restart=on-failure
RestartSec=10min
UNIT
sudo tee /etc/systemd/system/tracking-backup.timer > /dev/null <<'UNIT'
[Timer]
OnBootSec=10min
OnUnitActiveSec=6h

[Install]
WantedBy=timers.target
UNIT

sudo tee /etc/systemd/system/mlflow.service > /dev/null <<UNIT
[Unit]
Description=MLflow tracking server
Wants=tracking-database.service
After=tracking-database.service
StartLimitIntervalSec=0

[Service]
User=$USER
EnvironmentFile=/etc/default/tracking
ExecStartPre=+/usr/local/lib/tracking/aws/upgrade_mlflow.sh /opt/orchestrator postgresql+psycopg2:///mlflow?host=/run/tracking
Environment=MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Clients write artifacts directly to the bucket.
ExecStart=/opt/orchestrator/bin/mlflow server --host 127.0.0.1 --port 5000 --workers 2 \\
  --backend-store-uri postgresql+psycopg2:///mlflow?host=/run/tracking \\
  --default-artifact-root s3://$BUCKET/artifacts --no-serve-artifacts
ExecStartPost=/usr/bin/curl --silent --fail --retry 60 --retry-all-errors --retry-delay 1 --output /dev/null http://127.0.0.1:5000/health
# Upgrading the tables may take any time.
TimeoutStartSec=infinity
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT

sudo tee /etc/systemd/system/head-check.service > /dev/null <<'UNIT'
[Unit]
Description=Look after the head, and after the tracking server on it

[Service]
Type=oneshot
EnvironmentFile=/etc/default/tracking
ExecStart=/usr/local/lib/tracking/aws/check_head.sh http://127.0.0.1:5000 http://127.0.0.1:8265
UNIT
sudo tee /etc/systemd/system/head-check.timer > /dev/null <<'UNIT'
[Timer]
OnCalendar=minutely
AccuracySec=1s

[Install]
WantedBy=timers.target
UNIT

sudo tee /etc/systemd/system/idle-head.service > /dev/null <<UNIT
[Unit]
Description=End a head that nobody has used for $IDLE_HOURS hours

[Service]
Type=oneshot
ExecStart=/usr/bin/bash $PROJECT/clusters/aws/idle_head.sh $IDLE_HOURS
UNIT
sudo tee /etc/systemd/system/idle-head.timer > /dev/null <<'UNIT'
[Timer]
OnBootSec=30min
OnUnitActiveSec=10min

[Install]
WantedBy=timers.target
UNIT

sudo systemctl daemon-reload
sudo systemctl enable --quiet tracking-database.service mlflow.service
sudo systemctl enable --quiet --now head-check.timer # already now, because it renews the claim to the backups
# Restart both, because their programs or settings may have changed; the database waits for its restore.
sudo systemctl stop mlflow.service
for service in tracking-database mlflow; do
  if ! sudo systemctl restart "$service.service"; then
    sudo journalctl --no-pager --output cat --unit "$service.service" --lines 20 >&2
    exit 1
  fi
done
sudo systemctl enable --quiet --now tracking-backup.timer idle-head.timer
echo "tracking server: http://127.0.0.1:5000 on this machine, artifacts in s3://$BUCKET/artifacts"
echo "how the head is: /run/head-check/report, written anew every minute"
