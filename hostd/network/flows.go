package network

import (
	"fmt"
	"strings"
)

// flows renders a bridge's OpenFlow tables. The first asks who sends: a port sends
// with its own MAC and address only, and never as a DHCP server; its DHCP requests
// reach nobody but the host. The second says where to: to the port whose MAC it is,
// to the gateway, and broadcasts only where ARP and DHCP need them. Nothing is
// learned from what guests send, and what no line names is dropped: IPv6, too.
func flows(b Bridge) string {
	var t strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&t, format+"\n", args...) }
	line("table=0,priority=0,actions=drop")
	line("table=0,priority=20,in_port=LOCAL,ip,actions=resubmit(,1)")
	line("table=0,priority=20,in_port=LOCAL,arp,actions=resubmit(,1)")
	for _, p := range b.Ports {
		from := fmt.Sprintf("in_port=%s,dl_src=%s", p.Tap(), p.MAC)
		for _, address := range []string{"0.0.0.0", p.Address()} {
			line("table=0,priority=40,%s,udp,nw_src=%s,tp_src=68,tp_dst=67,actions=LOCAL", from, address)
			line("table=0,priority=20,%s,arp,arp_sha=%s,arp_spa=%s,actions=resubmit(,1)", from, p.MAC, address)
		}
		line("table=0,priority=30,in_port=%s,udp,tp_src=67,actions=drop", p.Tap())
		line("table=0,priority=20,%s,ip,nw_src=%s,actions=resubmit(,1)", from, p.Address())
	}
	line("table=1,priority=0,actions=drop")
	line("table=1,priority=20,dl_dst=%s,actions=LOCAL", b.MAC)
	for _, p := range b.Ports {
		line("table=1,priority=20,dl_dst=%s,actions=output:%s", p.MAC, p.Tap())
	}
	line("table=1,priority=10,arp,dl_dst=ff:ff:ff:ff:ff:ff,actions=FLOOD")
	line("table=1,priority=10,in_port=LOCAL,udp,dl_dst=ff:ff:ff:ff:ff:ff,tp_src=67,tp_dst=68,actions=FLOOD")
	return t.String()
}
