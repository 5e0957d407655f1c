// Package network is the tenants' networks of one host: a bridge for each tenant,
// addresses by DHCP with a static lease for each port (one dnsmasq, DHCP only),
// NAT by nftables, and guards around every port. It runs its programs through one
// function, and knows nothing of VMs but their ports.
//
// It is level-driven: the wanted ports are in ports.json, and [Network.Attach] and
// [Network.Detach] change that file and then make bridges, rules and leases equal
// to it. Doing so again after a crash finishes the work and takes leftovers away.
//
// There are two kinds of [Bridges]. [OpenVSwitch] is for real hosts: it makes the
// taps too, and OpenFlow guards them before the guest's first frame. [KernelBridges]
// is the lab's: Linux bridges in a namespace of its own, into which libvirt plugs
// its taps, guarded by nftables. The lab does without Open vSwitch because the
// kernels it runs on may have no module for it.
//
// Between tenants: two tenants share no bridge, and nothing is forwarded from one
// bridge to another. A port sends only with its own MAC and address, IPv4 and ARP
// only, and its DHCP requests reach nobody but the host. A guest reaches of the host
// only DHCP, its gateway's ping and, where it is on, the metadata service; out goes
// only what leaves by the uplink, masqueraded, and not to [Options].Closed.
//
// What is not there: IPv6, addresses that can be reached from outside, networks
// over several hosts.
//
// Start reading at [Network.Attach], then apply.
package network
