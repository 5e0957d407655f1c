package discovery

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// classNetwork is the base class of network controllers; InfiniBand is 0207.
const classNetwork = 0x02

// port is what is known of a physical function that has VFs.
type port struct {
	pci      *pci.Device
	ether    bool
	identity string // GUID or permanent MAC; "": nothing that stays
	model    string
	firmware string
	number   uint32
	pkeys    []uint16
	bad      string
}

// vfs finds the virtual functions of network controllers, PF by PF.
func (l *look) vfs() {
	if l.c.VF == VFNone {
		return
	}
	for _, a := range l.order {
		d := l.devices[a]
		if d == nil || d.VF || d.Class>>16 != classNetwork || len(d.VFs) == 0 {
			continue
		}
		p := l.port(d)
		if p.ether && l.c.VF == VFInfiniBand || !p.ether && l.c.VF == VFEthernet {
			continue
		}
		for i, va := range d.VFs {
			if v := l.devices[va]; v != nil && v.VF && v.PF == a {
				l.vf(p, v, i)
			}
		}
	}
}

func (l *look) vf(p *port, d *pci.Device, index int) {
	c := l.candidate(kindVF, d)
	c.pf, c.ether, c.group = p.pci.Address, p.ether, p.pci.Address.String()
	c.dev.PF, c.dev.VFIndex, c.dev.Port, c.dev.PKeys = p.pci.Address.String(), uint32(index), p.number, p.pkeys
	c.dev.Model, c.dev.Firmware = p.model+" virtual function", p.firmware
	switch {
	case p.bad != "":
		c.against("%s", p.bad)
	case p.identity == "":
		c.against("its physical function %s has no GUID, MAC or serial number to know it by", c.dev.PF)
	default:
		c.dev.Serial, c.dev.SerialFrom = fmt.Sprintf("%s/vf%d", p.identity, index), domain.SerialOfPF
	}
	if up := l.interfaceInUse(d); up != "" {
		c.against("%s", up)
	}
	if p.ether {
		c.dev.MAC = l.mac(d, false)
		return
	}
	c.dev.GUID = l.vfGUID(p.pci, d, index)
}

// port reads a physical function: by the names below its own directory, never by
// what an interface is called.
func (l *look) port(d *pci.Device) *port {
	p := &port{pci: d, ether: true, number: 1, model: "network controller " + d.IDs()}
	vpd, err := l.sys.VPD(d)
	if err == nil {
		if vpd.Name != "" {
			p.model = tidy(vpd.Name, 48)
		}
		for _, v := range vpd.Fields {
			if strings.Contains(v, "SW_MNG") { // how NVIDIA marks the functions that manage NVSwitches
				p.bad = "it belongs to the baseboard: its product data says that it manages the switches"
			}
		}
	}
	if anyMatches(l.c.InternalNICs, d.IDs()) {
		p.bad = "it belongs to the baseboard, by the host's configuration"
	}
	if dev := l.child(d, "infiniband"); dev != "" {
		l.infiniband(p, path.Join(d.Path, "infiniband", dev))
	}
	if p.identity == "" && p.ether {
		p.identity = l.mac(d, true)
	}
	if n := l.pciSerial(d); p.identity == "" && n != "" {
		p.identity = fmt.Sprintf("%s.%d", n, d.Address.Function) // functions of one device share it
	}
	return p
}

// infiniband reads an RDMA device: it is InfiniBand if its port's link layer is.
func (l *look) infiniband(p *port, dir string) {
	link, err := l.sys.Tree.Text(path.Join(dir, "ports/1/link_layer"))
	if err != nil || link != "InfiniBand" {
		return
	}
	p.ether = false
	p.identity = guid(l.sys.Tree.Text(path.Join(dir, "node_guid")))
	if fw, err := l.sys.Tree.Text(path.Join(dir, "fw_ver")); err == nil {
		p.firmware = tidy(fw, 64)
	}
	const keysMax = 16 // of 128 that a table has: for people's eyes
	for i := range 128 {
		key, err := l.sys.Tree.Uint(path.Join(dir, "ports/1/pkeys", strconv.Itoa(i)), 16)
		if err != nil || len(p.pkeys) == keysMax {
			return
		}
		if key != 0 {
			p.pkeys = append(p.pkeys, uint16(key))
		}
	}
}

// child is the name of the only entry in a subdirectory of a device; "" otherwise.
func (l *look) child(d *pci.Device, sub string) string {
	names, err := l.sys.Tree.List(path.Join(d.Path, sub))
	if err != nil || len(names) != 1 {
		return ""
	}
	return names[0]
}

// guid takes "b8ce:f603:00a1:b2c4", and nothing that means none.
func guid(s string, err error) string {
	plain := strings.ReplaceAll(s, ":", "")
	n, perr := strconv.ParseUint(plain, 16, 64)
	if err != nil || perr != nil || len(plain) != 16 || n == 0 || n == 1<<64-1 {
		return ""
	}
	return strings.ToLower(s)
}

// vfGUID is the GUID that a VF has now: by its own device if the host's driver has
// it, else by what its PF was told (the vendor's driver shows that).
func (l *look) vfGUID(pf, d *pci.Device, index int) string {
	if dev := l.child(d, "infiniband"); dev != "" {
		return guid(l.sys.Tree.Text(path.Join(d.Path, "infiniband", dev, "node_guid")))
	}
	return guid(l.sys.Tree.Text(path.Join(pf.Path, "sriov", strconv.Itoa(index), "node")))
}

// mac is the address of a function's interface. permanent: only one that is the
// hardware's own (addr_assign_type 0), not one that was made up or set.
func (l *look) mac(d *pci.Device, permanent bool) string {
	names, err := l.sys.Tree.List(path.Join(d.Path, "net"))
	if err != nil || len(names) == 0 {
		return ""
	}
	dir := path.Join(d.Path, "net", names[0])
	if kind, err := l.sys.Tree.Uint(path.Join(dir, "addr_assign_type"), 8); permanent && (err != nil || kind != 0) {
		return ""
	}
	s, err := l.sys.Tree.Text(path.Join(dir, "address"))
	if err != nil || len(s) != len("02:00:00:00:00:01") || strings.Trim(s, "0123456789abcdef:") != "" || s == "00:00:00:00:00:00" {
		return ""
	}
	return s
}

// interfaceInUse says so if the host itself uses a VF's network interface.
func (l *look) interfaceInUse(d *pci.Device) string {
	names, err := l.sys.Tree.List(path.Join(d.Path, "net"))
	if err != nil {
		return ""
	}
	const up = 0x1 // IFF_UP
	for _, n := range names {
		dir := path.Join(d.Path, "net", n)
		if l.sys.Tree.Exists(path.Join(dir, "master")) {
			return "its network interface is part of another one on the host"
		}
		if flags, err := l.sys.Tree.Uint(path.Join(dir, "flags"), 32); err != nil || flags&up != 0 {
			return "its network interface is up on the host"
		}
	}
	return ""
}
