#!/usr/bin/env bash
# The head: PostgreSQL, continuously backed up to the bucket, and MLflow before it, each a service that
# starts again by itself; and the timer that ends a head nobody uses. Reads BUCKET from ~/cluster.env.
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

# Debian's packages start a database of their own unless told not to; ours has its own service.
sudo mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' | sudo tee /etc/postgresql-common/createcluster.conf > /dev/null
sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq postgresql-16 barman-cli-cloud python3-boto3

sudo tee /etc/default/tracking > /dev/null <<ENV
BACKUP=s3://$BUCKET/tracking
DATA=/var/lib/tracking/postgres
SOCKET=/run/tracking
OWNER=$USER
BIN=/usr/lib/postgresql/16/bin
ENV
sudo install -d -o postgres -g postgres -m 750 /var/lib/tracking
sudo install -m 755 "$PROJECT/clusters/database.sh" /usr/local/bin/tracking-database

sudo tee /etc/systemd/system/tracking-database.service > /dev/null <<'UNIT'
[Unit]
Description=PostgreSQL of the tracking server
After=network-online.target
StartLimitIntervalSec=0

[Service]
User=postgres
RuntimeDirectory=tracking
EnvironmentFile=/etc/default/tracking
ExecStartPre=/usr/local/bin/tracking-database prepare
ExecStart=/usr/local/bin/tracking-database serve
ExecStartPost=/usr/local/bin/tracking-database ready
# A clean stop sends the last of the log to the bucket: PostgreSQL alone is told, not what it sends with.
KillSignal=SIGINT
KillMode=mixed
# Restoring a long log takes its time.
TimeoutStartSec=4h
TimeoutStopSec=300
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT

sudo tee /etc/systemd/system/tracking-backup.service > /dev/null <<'UNIT'
[Unit]
Description=Full backup of the tracking server's database

[Service]
Type=oneshot
User=postgres
EnvironmentFile=/etc/default/tracking
ExecStart=/usr/local/bin/tracking-database backup
UNIT
sudo tee /etc/systemd/system/tracking-backup.timer > /dev/null <<'UNIT'
[Timer]
OnBootSec=10min
OnUnitActiveSec=1d

[Install]
WantedBy=timers.target
UNIT

sudo tee /etc/systemd/system/mlflow.service > /dev/null <<UNIT
[Unit]
Description=MLflow tracking server
Requires=tracking-database.service
After=tracking-database.service
StartLimitIntervalSec=0

[Service]
User=$USER
Environment=MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Artifacts go from their writers straight into the bucket.
ExecStart=/opt/orchestrator/bin/mlflow server --host 127.0.0.1 --port 5000 --workers 2 \\
  --backend-store-uri postgresql+psycopg2:///mlflow?host=/run/tracking \\
  --default-artifact-root s3://$BUCKET/artifacts --no-serve-artifacts
ExecStartPost=/usr/bin/curl --silent --fail --retry 60 --retry-all-errors --retry-delay 1 --output /dev/null http://127.0.0.1:5000/health
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
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
sudo systemctl enable --quiet --now tracking-database.service tracking-backup.timer idle-head.timer
sudo systemctl enable --quiet mlflow.service
sudo systemctl restart mlflow.service
echo "tracking server: http://127.0.0.1:5000 on this machine, artifacts in s3://$BUCKET/artifacts"
