package network

import (
	"fmt"
	"strings"
)

// rules renders the whole rule set. Loading it replaces the old one in one
// transaction: each table is named (so that it exists), deleted and made anew.
func rules(ports []Port) string {
	var b strings.Builder
	b.WriteString(`table inet gpuaas
delete table inet gpuaas
table inet gpuaas {
	chain input {
		type filter hook input priority 0; policy drop;
		iif "lo" accept
		ct state established,related accept
		iifname "gbr*" udp sport 68 udp dport 67 accept
		iifname "gbr*" icmp type echo-request accept
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname "gbr*" oifname "uplink" accept
	}
	chain postrouting {
		type nat hook postrouting priority 100;
		ip saddr 10.77.0.0/16 oifname "uplink" masquerade
	}
}
table bridge gpuaas
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
