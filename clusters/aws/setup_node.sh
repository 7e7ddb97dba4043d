#!/usr/bin/env bash
# Every machine on AWS: the project in /opt/orchestrator, where services of other users may read it.
set -euo pipefail

# The first login of a new machine may come before its own package updates are done.
cloud-init status --wait > /dev/null || true
for pause in 10 20 40 80 0; do
  sudo apt-get update -qq && break
  sleep "$pause" # a mirror that fails for a moment, or the lists in another's hands
done
sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3-venv rsync
sudo install -d -o "$USER" -g "$USER" /opt/orchestrator
bash ~/segmentation-orchestrator/clusters/setup_node.sh /opt/orchestrator
