// Package network is the lab's tenant network: one Linux bridge per tenant in a
// network namespace of the lab's own, addresses by DHCP with a static lease per
// port (dnsmasq), and nftables around it. It runs its programs through one
// function that runs them inside that namespace; it may not touch the host's own
// network, and it knows nothing of VMs but their ports.
//
// It is level-driven: the wanted ports are in ports.json, and [Network.Attach] and
// [Network.Detach] change that file and then make bridges, rules and leases equal
// to it. Doing so again after a crash finishes the work.
//
// Between tenants: two tenants share no bridge, and nothing is forwarded from one
// bridge to another. A port may send only with its own MAC and address. A guest
// reaches of the host only DHCP and ping. Out of the namespace goes only what
// leaves by an interface called uplink, masqueraded; the lab makes none.
//
// Why not Open vSwitch: the kernels this runs on may have no openvswitch module, and
// OVS's userspace datapath costs two daemons and copies every packet; a bridge
// per tenant isolates more than VLAN tags on a shared one.
//
// Start reading at [Network.Attach], then apply.
package network
