#!/usr/bin/env bash
# Set up any machine on AWS: install the project in /opt/orchestrator, where services can read it.
set -euo pipefail

# Ray may log in before cloud-init has finished, when the machine's own updates hold apt's locks. apt can wait
# for dpkg's lock, but not for the lock of the package lists: hence the loop.
cloud-init status --wait > /dev/null || true
APT=(sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
for attempt in {1..60}; do
  "${APT[@]}" -o APT::Update::Error-Mode=any update && break
  ((attempt < 60)) && sleep 10
done
"${APT[@]}" install -y python3-venv rsync
sudo install -d -o "$USER" -g "$USER" /opt/orchestrator
bash ~/segmentation-orchestrator/clusters/setup_node.sh /opt/orchestrator
