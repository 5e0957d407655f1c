package nvme

import "fmt"

const identifyBytes = 4096

// Identity is what a controller says of itself (Base 2.0, Identify Controller data
// structure, CNS 01h).
type Identity struct {
	Vendor, Subsystem uint16 // PCI vendor ids
	Serial            string
	Model             string
	Firmware          string // the revision that runs
	Subnqn            string
	Controller        uint16 // CNTLID
	CMIC              uint8
	MDTS              uint8
	Admin             uint16 // OACS
	FirmwareUpdates   uint8  // FRMW
	LogPages          uint8  // LPA
	Capacity          uint64 // TNVMCAP, bytes; 0: not reported
	Unallocated       uint64 // UNVMCAP, bytes
	Sanitize          uint32 // SANICAP
	Namespaces        uint32 // NN: the highest valid namespace id
	IO                uint16 // ONCS
	FormatAttrs       uint8  // FNA
	WriteCache        uint8  // VWC
	Protection        uint8  // NWPC
}

// What a controller advertises.
func (i *Identity) SecuritySend() bool     { return i.Admin&(1<<0) != 0 } // and Security Receive
func (i *Identity) Format() bool           { return i.Admin&(1<<1) != 0 }
func (i *Identity) Management() bool       { return i.Admin&(1<<3) != 0 } // of namespaces
func (i *Identity) CryptoFormat() bool     { return i.Format() && i.FormatAttrs&(1<<2) != 0 }
func (i *Identity) SanitizeCrypto() bool   { return i.Sanitize&(1<<0) != 0 }
func (i *Identity) SanitizeBlock() bool    { return i.Sanitize&(1<<1) != 0 }
func (i *Identity) SanitizeOver() bool     { return i.Sanitize&(1<<2) != 0 }
func (i *Identity) Sanitizes() bool        { return i.Sanitize&7 != 0 }
func (i *Identity) ZeroesBlocks() bool     { return i.IO&(1<<3) != 0 } // Write Zeroes
func (i *Identity) WriteProtects() bool    { return i.Protection&(1<<0) != 0 }
func (i *Identity) ManyControllers() bool  { return i.CMIC&(1<<1) != 0 } // the subsystem may have more than one
func (i *Identity) FirmwareSlots() int     { return int(i.FirmwareUpdates >> 1 & 7) }
func (i *Identity) HasVolatileCache() bool { return i.WriteCache&1 != 0 }

// ParseIdentity reads an Identify Controller data structure.
func ParseIdentity(b []byte) (*Identity, error) {
	const what = "identify controller"
	p, err := whole(b, identifyBytes, what)
	if err != nil {
		return nil, err
	}
	i := &Identity{
		Vendor: p.u16(0), Subsystem: p.u16(2), CMIC: p[76], MDTS: p[77], Controller: p.u16(78), Admin: p.u16(256), FirmwareUpdates: p[260],
		LogPages: p[261], Sanitize: p.u32(328), Namespaces: p.u32(516), IO: p.u16(520), FormatAttrs: p[524], WriteCache: p[525], Protection: p[531],
	}
	for _, f := range []struct {
		to       *string
		from, up int
		name     string
	}{{&i.Serial, 4, 24, "serial"}, {&i.Model, 24, 64, "model"}, {&i.Firmware, 64, 72, "firmware revision"}, {&i.Subnqn, 768, 1024, "subsystem name"}} {
		if *f.to, err = p.text(f.from, f.up, what+": "+f.name); err != nil {
			return nil, err
		}
	}
	if i.Capacity, err = p.u128(280, what+": total capacity"); err != nil {
		return nil, err
	}
	if i.Unallocated, err = p.u128(296, what+": unallocated capacity"); err != nil {
		return nil, err
	}
	switch kind := p[111]; {
	case i.Serial == "" || i.Model == "" || i.Firmware == "":
		return nil, bad(what, "no serial, model or firmware revision")
	case i.Namespaces == 0:
		return nil, bad(what, "no namespace can exist")
	case i.Capacity != 0 && i.Unallocated > i.Capacity:
		return nil, bad(what, "%d of %d bytes are unallocated", i.Unallocated, i.Capacity)
	case kind > 1: // 0: an older controller, which is an I/O controller
		return nil, bad(what, "controller type %d is not an I/O controller", kind)
	}
	return i, nil
}

// Deallocated is what blocks read as after they were deallocated (DLFEAT bits 2:0).
type Deallocated uint8

// The values of Deallocated.
const (
	ReadsUnknown Deallocated = 0
	ReadsZero    Deallocated = 1
	ReadsFF      Deallocated = 2
)

// Namespace is one namespace (NVM Command Set 1.0, Identify Namespace data
// structure, CNS 00h).
type Namespace struct {
	ID             uint32
	Blocks         uint64 // NSZE, logical blocks
	Capacity       uint64 // NCAP, logical blocks
	Format         uint8  // index of the LBA format in use
	Extended       bool   // metadata travels at the end of each block
	BlockBytes     uint32
	MetadataBytes  uint16
	PI             uint8 // DPS: end-to-end protection information in use
	Shared         bool  // NMIC: more than one controller may have it
	WriteProtected bool  // NSATTR
	Formatting     uint8 // FPI: percent of a format still to do; 0: none runs
	Deallocated    Deallocated
	GUID           string // NGUID, or EUI64 where there is none, in hex; "" if neither
}

// Bytes is the namespace's size.
func (n *Namespace) Bytes() int64 { return int64(n.Blocks * uint64(n.BlockBytes)) }

// maxNamespaceBytes is beyond any drive, and keeps sizes far from overflow.
const maxNamespaceBytes = 1 << 56

// ParseNamespace reads an Identify Namespace data structure.
func ParseNamespace(b []byte, nsid uint32) (*Namespace, error) {
	what := fmt.Sprintf("identify namespace %d", nsid)
	p, err := whole(b, identifyBytes, what)
	if err != nil {
		return nil, err
	}
	if zero(p) {
		return nil, bad(what, "it is not active")
	}
	flbas := p[26]
	n := &Namespace{
		ID: nsid, Blocks: p.u64(0), Capacity: p.u64(8), Format: flbas&0xF | flbas>>5&3<<4, Extended: flbas&(1<<4) != 0, PI: p[29],
		Shared: p[30]&1 != 0, WriteProtected: p[99]&1 != 0, Deallocated: Deallocated(p[33] & 7),
	}
	if p[32]&(1<<7) != 0 {
		n.Formatting = p[32] & 0x7F
	}
	if int(n.Format) > int(p[25]) || n.Format >= 64 {
		return nil, bad(what, "LBA format %d of %d", n.Format, int(p[25])+1)
	}
	f := 128 + 4*int(n.Format)
	shift := p[f+2]
	n.MetadataBytes = p.u16(f)
	if shift < 9 || shift > 16 {
		return nil, bad(what, "blocks of 2^%d bytes", shift)
	}
	n.BlockBytes = 1 << shift
	switch {
	case n.Blocks == 0 || n.Blocks > maxNamespaceBytes>>shift:
		return nil, bad(what, "%d blocks of %d bytes", n.Blocks, n.BlockBytes)
	case n.Capacity > n.Blocks:
		return nil, bad(what, "capacity of %d blocks, size of %d", n.Capacity, n.Blocks)
	case n.Formatting > 100:
		return nil, bad(what, "%d%% of a format are left", n.Formatting)
	case n.Deallocated > ReadsFF:
		return nil, bad(what, "deallocated blocks read as %d", n.Deallocated)
	}
	if guid, eui := p[104:120], p[120:128]; !zero(guid) {
		n.GUID = fmt.Sprintf("%x", []byte(guid))
	} else if !zero(eui) {
		n.GUID = fmt.Sprintf("%x", []byte(eui))
	}
	return n, nil
}

// ParseNamespaceList reads a Namespace List: ids in rising order, up to the first 0.
func ParseNamespaceList(b []byte) ([]uint32, error) {
	const what = "namespace list"
	p, err := whole(b, identifyBytes, what)
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for at := 0; at < identifyBytes; at += 4 {
		id := p.u32(at)
		if id == 0 {
			if !zero(p[at:]) {
				return nil, bad(what, "ids follow its end")
			}
			return ids, nil
		}
		if id > 0xFFFFFFFD || len(ids) > 0 && id <= ids[len(ids)-1] {
			return nil, bad(what, "id %d is out of order", id)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// ParseControllerList reads a Controller List: a count and that many ids.
func ParseControllerList(b []byte) ([]uint16, error) {
	const what = "controller list"
	p, err := whole(b, identifyBytes, what)
	if err != nil {
		return nil, err
	}
	n := int(p.u16(0))
	if n > identifyBytes/2-1 {
		return nil, bad(what, "%d entries", n)
	}
	ids := make([]uint16, n)
	for i := range ids {
		if ids[i] = p.u16(2 + 2*i); i > 0 && ids[i] <= ids[i-1] {
			return nil, bad(what, "id %d is out of order", ids[i])
		}
	}
	return ids, nil
}
