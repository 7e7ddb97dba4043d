# shellcheck shell=bash
# install_packages NAME...: install Debian packages, even in a machine's first minutes, when its own updates
# hold apt's locks. apt can wait for dpkg's lock, but not for the lock of the package lists: hence the loop.
install_packages() {
  local apt=(sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
  local tries=60
  until "${apt[@]}" -o APT::Update::Error-Mode=any update; do
    ((--tries)) || return 1
    sleep 10
  done
  "${apt[@]}" -o Acquire::Retries=3 install -y "$@"
}
