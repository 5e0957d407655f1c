package network

import (
	"fmt"
	"strings"
)

// rules renders the whole rule set. Loading it replaces the old one in one
// transaction: each table is named (so that it exists), deleted and made anew. It
// speaks of our bridges only; what else the host filters is its own. What comes in
// by a tap itself is nobody's: a bridge takes it before, but a switch in user space
// only gets a copy, and one that is down gets nothing.
func (n *Network) rules() string {
	var b strings.Builder
	b.WriteString(`table inet gpuaas
delete table inet gpuaas
table inet gpuaas {
	chain input {
		type filter hook input priority -10; policy accept;
		iifname "gtap*" drop
		iifname "gbr*" jump guest
	}
	chain guest {
		ct state established,related accept
`)
	for _, br := range n.wanted() {
		gw, _, _ := strings.Cut(br.Addresses[0], "/")
		fmt.Fprintf(&b, "\t\tiifname %q udp sport 68 udp dport 67 ip daddr { 255.255.255.255, %s } accept\n", br.Name, gw)
		fmt.Fprintf(&b, "\t\tiifname %q ip daddr %s icmp type echo-request accept\n", br.Name, gw)
		if n.o.Metadata {
			fmt.Fprintf(&b, "\t\tiifname %q ip daddr %s tcp dport 80 accept\n", br.Name, MetadataAddress)
		}
	}
	b.WriteString(`		drop
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		iifname "gtap*" drop
		iifname "gbr*" jump out
		oifname "gbr*" jump back
	}
	chain out {
`)
	if len(n.o.Closed) > 0 {
		var nets []string
		for _, p := range n.o.Closed {
			nets = append(nets, p.Masked().String())
		}
		fmt.Fprintf(&b, "\t\tip daddr { %s } drop\n", strings.Join(nets, ", "))
	}
	fmt.Fprintf(&b, `		oifname %q accept
		drop
	}
	chain back {
		ct state established,related accept
		drop
	}
	chain postrouting {
		type nat hook postrouting priority 100;
		ip saddr 10.77.0.0/16 oifname %q masquerade
	}
}
`, n.o.Uplink, n.o.Uplink)
	if !n.bridges.Plugs() {
		b.WriteString(portRules(n.ports))
	}
	return b.String()
}

// portRules guard the taps of kernel bridges: a port sends with its own MAC and
// address only.
func portRules(ports []Port) string {
	var b strings.Builder
	b.WriteString(`table bridge gpuaas
delete table bridge gpuaas
table bridge gpuaas {
	chain prerouting {
		type filter hook prerouting priority -300; policy accept;
		iifname "gtap*" jump ports
	}
	chain ports {
`)
	for _, p := range ports {
		// Address 0.0.0.0 is a guest that asks for its first lease.
		fmt.Fprintf(&b, "\t\tiifname %q ether saddr %s ether type ip ip saddr { 0.0.0.0, %s } accept\n", p.Tap(), p.MAC, p.Address())
		fmt.Fprintf(&b, "\t\tiifname %q ether saddr %s ether type arp arp saddr ether %s arp saddr ip { 0.0.0.0, %s } accept\n", p.Tap(), p.MAC, p.MAC, p.Address())
	}
	b.WriteString("\t\tdrop\n\t}\n}\n")
	return b.String()
}
