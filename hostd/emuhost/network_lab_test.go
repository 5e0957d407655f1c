//go:build lab

package emuhost_test

import (
	"testing"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// TestLabLongNetwork: Open vSwitch in the kernel, nftables, dnsmasq, and virtual
// functions of the network card, with a guest on them.
func TestLabLongNetwork(t *testing.T) {
	h, ctx := boot(t, emuhost.Options{})
	for _, s := range []string{emuhost.OpenVSwitch, emuhost.Libvirt} {
		if err := h.Service(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.CopyIn(ctx, emuhost.Image("bare.elf"), "/var/lib/bare.elf"); err != nil {
		t.Fatal(err)
	}
	sh(t, ctx, h, `ovs-vsctl --timeout=20 add-br br-t1 -- set bridge br-t1 fail-mode=standalone
		ip address add 10.10.1.1/24 dev br-t1; ip link set br-t1 up; sysctl -qw net.ipv4.ip_forward=1
		dnsmasq --conf-file=/dev/null --user=root --interface=br-t1 --bind-interfaces --port=0 --dhcp-range=10.10.1.0,static,10m \
			--dhcp-host=02:00:00:00:00:11,10.10.1.11 --dhcp-leasefile=/run/leases --dhcp-no-override --log-dhcp --log-facility=/run/dnsmasq.log`)
	contains(t, sh(t, ctx, h, "ovs-appctl dpif/show; ovs-dpctl show"), "system@ovs-system", "br-t1")
	p, err := h.Start(emuhost.Command{Args: []string{"nft", "-f", "-"}, Stdin: []byte(`table ip hostd {
	chain post { type nat hook postrouting priority srcnat; ip saddr 10.10.1.0/24 oifname "uplink" masquerade; }
	chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; iifname "br-t1" oifname "uplink" accept; }
}`)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); err != nil {
		t.Fatal(err)
	}

	// Virtual functions, each in a group of its own, with MAC and VLAN set by the host.
	const vf = "0000:05:10.0"
	sh(t, ctx, h, `n=$(basename /sys/bus/pci/devices/0000:05:00.0/net/*); d=/sys/bus/pci/devices/0000:05:00.0
		ip link set $n up; echo 0 > $d/sriov_drivers_autoprobe; echo 2 > $d/sriov_numvfs
		ip link set $n vf 0 mac 02:00:00:00:00:77 vlan 12 spoofchk on`)
	if got := sh(t, ctx, h, "for v in /sys/bus/pci/devices/0000:05:00.0/virtfn*; do basename $(readlink $v/iommu_group); done | sort -u | wc -l"); got != "2" {
		t.Errorf("two virtual functions are in %s groups", got)
	}
	bind(t, ctx, h, vf, nvme0)

	g := guest{name: "vm", devices: []string{nvme0, vf}, os: "<kernel>/var/lib/bare.elf</kernel>", extra: `<interface type='bridge'>
		<mac address='02:00:00:00:00:11'/><source bridge='br-t1'/><virtualport type='openvswitch'/><model type='virtio'/><rom enabled='no'/></interface>`}
	g.start(t, ctx, h)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := h.Run(ctx, "sh", "-c", "cat /run/dnsmasq.log; ovs-vsctl show; ip -s link")
			t.Logf("the host:\n%s", out)
		}
	})
	g.until(t, ctx, h, "BARE address 10.10.1.11")
	contains(t, sh(t, ctx, h, "cat /run/leases"), "02:00:00:00:00:11")
	sh(t, ctx, h, "for i in $(seq 60); do ping -c 1 -W 2 10.10.1.11 && exit 0; done; exit 1")
	contains(t, sh(t, ctx, h, "ovs-vsctl list-ports br-t1; ovs-dpctl dump-flows"), "vnet0", "eth_type")
	contains(t, g.said(t, ctx, h), "8086:10ca") // the virtual function
	// Somebody listens at the ready port: curl takes what it says for HTTP of 1991.
	contains(t, sh(t, ctx, h, `for i in $(seq 10); do curl -sS -N --http0.9 --max-time 8 --unix-socket /run/vm.ready http://port/ | grep -a ready && exit 0; done; exit 1`), "ready devices=1")
	g.stop(t, ctx, h)
}
