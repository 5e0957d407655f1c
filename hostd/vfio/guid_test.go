package vfio

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// attr is a netlink attribute, padded.
func attr(kind int, content ...[]byte) []byte {
	b := []byte{0, 0, 0, 0}
	for _, c := range content {
		b = append(b, c...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], uint16(kind))
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// vfGUID is struct ifla_vf_guid of linux/if_link.h.
func vfGUID(vf uint32, guid uint64) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b, vf)
	binary.NativeEndian.PutUint64(b[8:], guid)
	return b
}

func TestGUIDs(t *testing.T) {
	t.Parallel()
	vf := func(n uint32, node, port uint64) []byte {
		return attr(nl.IFLA_VF_INFO, attr(nl.IFLA_VF_MAC, make([]byte, 36)), attr(nl.IFLA_VF_IB_NODE_GUID, vfGUID(n, node)), attr(nl.IFLA_VF_IB_PORT_GUID, vfGUID(n, port)))
	}
	iface := append(attr(unix.IFLA_IFNAME, []byte("ib0\x00")), attr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, vf(0, 1, 2), vf(1, 0xb8cef60300a1b2c4, 0), vf(2, 3, 4))...)
	if node, port, err := guidsOf(iface, 1); err != nil || node != "b8ce:f603:00a1:b2c4" || port != "" {
		t.Errorf("%q, %q, %v", node, port, err)
	}
	if node, port, err := guidsOf(iface, 2); err != nil || node != "0000:0000:0000:0003" || port != "0000:0000:0000:0004" {
		t.Errorf("%q, %q, %v", node, port, err)
	}
	for name, b := range map[string][]byte{
		"a VF that is not there": append([]byte(nil), attr(unix.IFLA_VFINFO_LIST, vf(0, 1, 2))...),
		"no VFs":                 attr(unix.IFLA_IFNAME, []byte("ib0\x00")),
		"an old kernel":          attr(unix.IFLA_VFINFO_LIST, attr(nl.IFLA_VF_INFO, attr(nl.IFLA_VF_MAC, make([]byte, 36)))),
		"cut short":              attr(unix.IFLA_VFINFO_LIST, attr(nl.IFLA_VF_INFO, attr(nl.IFLA_VF_IB_NODE_GUID, []byte{1, 0, 0, 0}), attr(nl.IFLA_VF_IB_PORT_GUID, []byte{1, 0, 0, 0}))),
		"nothing":                nil,
	} {
		if node, port, err := guidsOf(b, 1); err == nil {
			t.Errorf("%s: %q, %q", name, node, port)
		}
	}
	for text, want := range map[string]string{"": "00:00:00:00:00:00:00:00", "b8ce:f603:00a1:b2c4": "b8:ce:f6:03:00:a1:b2:c4", "b8ce": "", "b8ce:f603:00a1:b2cx": ""} {
		if b, err := guidBytes(text); b.String() != want || (err == nil) != (want != "") {
			t.Errorf("%q: %s, %v", text, b, err)
		}
	}
}

// The real kernel answers the question; an interface without virtual functions has no
// GUIDs to say.
func TestGUIDsOfTheKernel(t *testing.T) {
	t.Parallel()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Skipf("SKIPPED: no loopback interface: %v", err)
	}
	if _, _, err := vfGUIDs(lo, 0); err == nil || !strings.Contains(err.Error(), "says nothing of virtual functions") {
		t.Errorf("lo: %v", err)
	}
	if infiniBand(lo) {
		t.Error("lo is InfiniBand")
	}
}
