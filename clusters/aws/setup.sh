#!/usr/bin/env bash
# Set up the head: the tracking server. Reads BUCKET from ~/cluster.env, and the cluster's name and region from
# the file that `ray up` writes. Each `ray up` runs it again.
set -euo pipefail

PROJECT=~/segmentation-orchestrator
PYTHON=/opt/orchestrator/bin/python
# shellcheck source=/dev/null
source ~/cluster.env
: "${BUCKET:?edit the line \`bucket\` of cluster.yaml}"
if [ "$BUCKET" = my-bucket ]; then
  echo "cluster.yaml still names the bucket 'my-bucket'; put your own there" >&2
  exit 1
fi

$PYTHON -m pip install --quiet --disable-pip-version-check \
  --constraint "$PROJECT/constraints.txt" --editable "${PROJECT}[cluster,head,pretrained]"
NAME=$($PYTHON -c '
import boto3, pathlib, yaml
config = yaml.safe_load(pathlib.Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
region = config["provider"]["region"]
account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
print(account, region, config["cluster_name"], sep="-")')

sudo tee /etc/systemd/system/tracking.service > /dev/null <<UNIT
[Unit]
Description=MLflow tracking server, replicated to s3://$BUCKET/tracking/$NAME
Wants=network-online.target
After=network-online.target
# Restart without limit.
StartLimitIntervalSec=0
[Service]
User=$USER
StateDirectory=tracking
# Clients write artifacts directly to the bucket.
ExecStart=$PYTHON -m orchestrator.server --directory /var/lib/tracking --port 5000 \\
  --replica s3://$BUCKET/tracking/$NAME --artifacts s3://$BUCKET/artifacts
# Only the command is signaled: it stops MLflow, then sends the last changes.
TimeoutStopSec=180
KillMode=mixed
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
UNIT
sudo systemctl daemon-reload
sudo systemctl enable --quiet tracking.service
sudo systemctl restart tracking.service
# A restore may take any time.
until curl --silent --fail --max-time 15 --output /dev/null http://127.0.0.1:5000/health; do
  if [ "$(systemctl is-active tracking.service)" != active ]; then
    sudo journalctl --no-pager --output cat --unit tracking.service --lines 20 >&2
    exit 1
  fi
  sleep 1
done
echo "tracking server: http://127.0.0.1:5000 on this machine; $(hostname) writes s3://$BUCKET/tracking/$NAME"
