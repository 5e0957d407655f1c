#!/bin/sh
# Starts what systemd would have started on a real host. Does nothing when it runs.
# usage: service libvirt|openvswitch
set -e
wait_for() { for i in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "service: $1 does not answer" >&2; exit 1; }
case $1 in
libvirt)
  virsh -c qemu:///system version >/dev/null 2>&1 && exit
  mkdir -p /run/libvirt /var/log/libvirt
  virtlogd -d; libvirtd -d
  wait_for virsh -c qemu:///system version;;
openvswitch)
  ovs-vsctl --timeout=5 show >/dev/null 2>&1 && exit
  mkdir -p /run/openvswitch /var/log/openvswitch /etc/openvswitch
  modprobe openvswitch
  [ -e /etc/openvswitch/conf.db ] || ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
  ovsdb-server --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file=/var/log/openvswitch/ovsdb-server.log
  ovs-vsctl --no-wait --timeout=10 init
  ovs-vswitchd --pidfile --detach --log-file=/var/log/openvswitch/ovs-vswitchd.log
  wait_for ovs-appctl version;;
*) echo "usage: service libvirt|openvswitch" >&2; exit 2;;
esac
