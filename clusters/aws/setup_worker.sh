#!/usr/bin/env bash
# Set up a GPU machine: its NVMe disk for the node cache, and the service that watches for a preemption.
set -euo pipefail

# The image combines the machine's NVMe disks and mounts them; without any, the root disk is used.
SCRATCH=/opt/dlami/nvme
if mountpoint --quiet "$SCRATCH"; then
  sudo mkdir -p "$SCRATCH/cache"
  sudo chown "$USER:" "$SCRATCH/cache"
  mkdir -p ~/.cache
  # The default directory of the node cache.
  ln -sfn "$SCRATCH/cache" ~/.cache/segmentation-orchestrator
fi

sudo tee /etc/systemd/system/spot-notice.service > /dev/null <<UNIT
[Unit]
Description=Tell Ray when this spot machine is about to be taken
After=network-online.target

[Service]
User=$USER
Environment=RAY_AUTH_MODE=token HOME=$HOME
ExecStart=/opt/orchestrator/bin/python -m orchestrator.cluster.aws_preemption
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT
sudo systemctl daemon-reload
sudo systemctl enable --quiet spot-notice.service
sudo systemctl restart spot-notice.service
