# shellcheck shell=bash
# install_packages NAME...: Debian's packages, also in the first minutes of a machine, when its own
# updates hold apt's locks. dpkg's lock can be waited for; that of the lists can only be tried again.
install_packages() {
  local apt=(sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
  local tries=60
  until "${apt[@]}" -o APT::Update::Error-Mode=any update; do
    ((--tries)) || return 1
    sleep 10
  done
  "${apt[@]}" -o Acquire::Retries=3 install -y "$@"
}
