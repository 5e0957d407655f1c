package vfio

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An InfiniBand physical function keeps two GUIDs of each virtual one. The kernel
// says them with the interface (IFLA_VF_IB_NODE_GUID and _PORT_GUID of
// IFLA_VFINFO_LIST, Linux 5.5), which the netlink package does not read. Which
// partitions the function is in is not there: that is the subnet manager's, by GUID.

// infiniBand says whether the link is one of InfiniBand (IPoIB's interface of the
// physical function).
func infiniBand(link netlink.Link) bool { return link.Attrs().EncapType == "infiniband" }

// vfGUIDs asks the kernel for the GUIDs that the link keeps of a VF; "" is none set.
// A kernel or driver that says nothing of them is an error: nothing is known then.
func vfGUIDs(link netlink.Link, index int) (node, port string, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	about := nl.NewIfInfomsg(unix.AF_UNSPEC)
	about.Index = int32(link.Attrs().Index)
	req.AddData(about)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF)))
	answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return "", "", err
	}
	if len(answers) != 1 || len(answers[0]) < about.Len() {
		return "", "", fmt.Errorf("%d answers about one interface", len(answers))
	}
	return guidsOf(answers[0][about.Len():], index)
}

// guidsOf reads the attributes of an interface.
func guidsOf(attributes []byte, index int) (node, port string, err error) {
	list, err := attribute(attributes, unix.IFLA_VFINFO_LIST)
	if err != nil {
		return "", "", err
	}
	entries, err := nl.ParseRouteAttr(list)
	if err != nil {
		return "", "", err
	}
	for _, e := range entries {
		n, nerr := attribute(e.Value, nl.IFLA_VF_IB_NODE_GUID)
		p, perr := attribute(e.Value, nl.IFLA_VF_IB_PORT_GUID)
		if nerr != nil || perr != nil || len(n) < nl.SizeofVfGUID || len(p) < nl.SizeofVfGUID {
			return "", "", errors.New("the kernel does not say the GUIDs of the virtual functions: it has to be 5.5 or later, with the ib_ipoib module")
		}
		node, port := nl.DeserializeVfGUID(n), nl.DeserializeVfGUID(p)
		if node.Vf == uint32(index) && port.Vf == uint32(index) {
			return guidText(node.GUID), guidText(port.GUID), nil
		}
	}
	return "", "", fmt.Errorf("the kernel knows no VF %d", index)
}

func attribute(b []byte, kind int) ([]byte, error) {
	all, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if int(a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)) == kind {
			return a.Value, nil
		}
	}
	return nil, fmt.Errorf("the kernel says nothing of virtual functions (no attribute %d)", kind)
}

// guidText writes a GUID as sysfs does: "b8ce:f603:00a1:b2c4"; "" is none.
func guidText(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%04x:%04x:%04x:%04x", n>>48, n>>32&0xffff, n>>16&0xffff, n&0xffff)
}

// guidBytes are those of a GUID's text; "" is all zero.
func guidBytes(s string) (net.HardwareAddr, error) {
	out := make(net.HardwareAddr, 8)
	if s == "" {
		return out, nil
	}
	plain := strings.ReplaceAll(s, ":", "")
	n, err := strconv.ParseUint(plain, 16, 64)
	if err != nil || len(plain) != 16 {
		return nil, fmt.Errorf("%q is no GUID", s)
	}
	for i := range out {
		out[i] = byte(n >> (56 - 8*i))
	}
	return out, nil
}
