package nvmefake

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

var le = binary.LittleEndian

// admin answers one command; the lock is held.
func (d *Drive) admin(c *nvme.Command) (uint32, error) {
	switch c.Opcode {
	case nvme.OpIdentify:
		return 0, d.identify(c)
	case nvme.OpGetLogPage:
		return 0, d.log(c)
	case nvme.OpGetFeatures, nvme.OpSetFeatures:
		return d.feature(c)
	}
	// These are aborted while a sanitize runs, and after one that failed (Base 2.0,
	// Sanitize Operations: Command Restrictions).
	switch {
	case d.state == nvme.Sanitizing:
		return 0, nvme.SanitizeInProgress
	case d.failedOp && c.Opcode != nvme.OpSanitize:
		return 0, nvme.SanitizeFailed
	}
	switch c.Opcode {
	case nvme.OpSecurityReceive:
		return 0, d.security(c)
	case nvme.OpFormat:
		return 0, d.format(c)
	case nvme.OpSanitize:
		return 0, d.sanitize(c)
	}
	return 0, nvme.InvalidOpcode
}

// wait lets a command that takes time take it, without the lock.
func (d *Drive) wait(ctx context.Context, c *nvme.Command) error {
	if c.Opcode != nvme.OpFormat {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d.FormatTakes):
		return nil
	}
}

func (d *Drive) identify(c *nvme.Command) error {
	b := c.Data
	clear(b)
	n := d.Namespaces[c.NSID]
	switch c.CDW10 & 0xFF {
	case nvme.CNSController:
		d.identifyController(b)
	case nvme.CNSNamespace:
		if c.NSID == 0 || c.NSID > 128 {
			return nvme.InvalidNamespace
		}
		if n != nil {
			n.identify(b)
		}
	case nvme.CNSActiveNamespaces:
		list(b, slices.Sorted(maps.Keys(d.Namespaces)))
	case nvme.CNSAllocatedNamespaces, nvme.CNSNamespaceControllers, nvme.CNSControllers:
		if d.OACS&(1<<3) == 0 {
			return nvme.InvalidField
		}
		switch {
		case c.CDW10&0xFF == nvme.CNSAllocatedNamespaces:
			list(b, slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(d.Namespaces)), d.Detached...))))
		case c.CDW10&0xFF == nvme.CNSControllers:
			controllers(b, d.Controllers)
		case n == nil:
			return nvme.InvalidNamespace
		default:
			controllers(b, n.Attached)
		}
	default:
		return nvme.InvalidField
	}
	return nil
}

func list(b []byte, ids []uint32) {
	for i, id := range ids {
		le.PutUint32(b[4*i:], id)
	}
}

func controllers(b []byte, ids []uint16) {
	le.PutUint16(b, uint16(len(ids)))
	for i, id := range ids {
		le.PutUint16(b[2+2*i:], id)
	}
}

func (d *Drive) identifyController(b []byte) {
	le.PutUint16(b[0:], 0x144d)
	le.PutUint16(b[2:], 0x144d)
	copy(b[4:24], fmt.Sprintf("%-20s", d.Serial))
	copy(b[24:64], fmt.Sprintf("%-40s", d.Model))
	copy(b[64:72], fmt.Sprintf("%-8s", d.Firmware))
	b[76], b[77] = d.CMIC, 5
	le.PutUint16(b[78:], d.Controllers[0])
	b[111] = 1
	le.PutUint16(b[256:], d.OACS)
	b[260] = 2 << 1 // two firmware slots
	le.PutUint64(b[280:], d.Capacity)
	le.PutUint32(b[328:], d.SANICAP)
	le.PutUint32(b[516:], 128)
	le.PutUint16(b[520:], d.ONCS)
	b[524], b[525], b[531] = d.FNA, 1, d.NWPC
	copy(b[768:], "nqn.2026-01.test:"+d.Serial)
}

func (n *Namespace) identify(b []byte) {
	f := n.Formats[n.Format]
	blocks := uint64(n.Bytes) >> f.Shift
	le.PutUint64(b[0:], blocks)
	le.PutUint64(b[8:], blocks)
	le.PutUint64(b[16:], uint64(len(n.media)))
	b[25], b[26] = uint8(len(n.Formats)-1), n.Format
	if n.Shared {
		b[30] = 1
	}
	b[33] = uint8(n.Deallocated) | 1<<3
	if n.Protection != nvme.Writable {
		b[99] = 1
	}
	copy(b[104:120], n.GUID[:])
	for i, f := range n.Formats {
		le.PutUint16(b[128+4*i:], f.Meta)
		b[128+4*i+2] = f.Shift
	}
}

func (d *Drive) log(c *nvme.Command) error {
	b := make([]byte, max(len(c.Data), 512))
	switch c.CDW10 & 0xFF {
	case 0x01:
		le.PutUint64(b, d.MediaErr)
	case 0x02:
		b[0], b[1], b[2], b[3], b[4] = d.Critical, 0x31, 0x01, 100, 10
		le.PutUint64(b[112:], d.Cycles)
		le.PutUint64(b[160:], d.MediaErr)
		le.PutUint64(b[176:], d.MediaErr)
	case 0x03:
		b[0] = d.ActiveSlot | d.NextSlot<<4
		for i, s := range d.Slots {
			if s != "" {
				copy(b[8+8*i:16+8*i], fmt.Sprintf("%-8s", s))
			}
		}
	case 0x81:
		if d.SANICAP == 0 {
			return nvme.InvalidLogPage
		}
		d.sanitizeLog(b)
	default:
		return nvme.InvalidLogPage
	}
	copy(c.Data, b)
	return nil
}

func (d *Drive) sanitizeLog(b []byte) {
	progress := uint16(0xFFFF)
	if d.state == nvme.Sanitizing {
		progress = uint16(min(0xFFFF, int64(time.Since(d.started))*0x10000/max(1, int64(d.SanitizeTakes))))
	}
	le.PutUint16(b, progress)
	le.PutUint16(b[2:], uint16(d.state))
	le.PutUint32(b[4:], d.action)
	for i, s := range []uint32{d.EstimateOverwrite, d.EstimateBlock, d.EstimateCrypto} {
		le.PutUint32(b[8+4*i:], s)
		le.PutUint32(b[20+4*i:], 0xFFFFFFFF)
	}
}

func (d *Drive) feature(c *nvme.Command) (uint32, error) {
	n := d.Namespaces[c.NSID]
	switch {
	case c.CDW10&0xFF != nvme.FeatureWriteProtect || d.NWPC&1 == 0:
		return 0, nvme.InvalidField
	case n == nil:
		return 0, nvme.InvalidNamespace
	case c.Opcode == nvme.OpGetFeatures:
		return uint32(n.Protection), nil
	case n.Protection > nvme.ProtectedUntilTold:
		return 0, nvme.Status(0x10E) // feature not changeable
	}
	n.Protection = nvme.WriteProtection(c.CDW11 & 7)
	return 0, nil
}

func (d *Drive) security(c *nvme.Command) error {
	if d.OACS&1 == 0 {
		return nvme.InvalidOpcode
	}
	if !d.TCG || c.CDW10 != 0x01<<24|0x0001<<8 {
		return nvme.InvalidField
	}
	b := make([]byte, len(c.Data))
	features := append(tper(), locking(&d.Locking)...)
	binary.BigEndian.PutUint32(b, uint32(44+len(features)))
	b[7] = 1
	copy(b[48:], features)
	copy(c.Data, b)
	return nil
}

func tper() []byte { return append([]byte{0, 1, 0x10, 12, 0x11}, make([]byte, 11)...) }

func locking(l *nvme.Locking) []byte {
	f := byte(0)
	for i, on := range []bool{l.Supported, l.Enabled, l.Locked, true, l.Shadowed} {
		if on {
			f |= 1 << i
		}
	}
	return append([]byte{0, 2, 0x10, 12, f}, make([]byte, 11)...)
}

func (d *Drive) format(c *nvme.Command) error {
	n, ses, index := d.Namespaces[c.NSID], c.CDW10>>9&7, uint8(c.CDW10&0xF|c.CDW10>>12&3<<4)
	switch {
	case d.OACS&(1<<1) == 0:
		return nvme.InvalidOpcode
	case n == nil:
		return nvme.InvalidNamespace
	case int(index) >= len(n.Formats):
		return nvme.InvalidFormat
	case ses > 2 || ses == 2 && d.FNA&(1<<2) == 0:
		return nvme.InvalidField
	case d.Locking.Locked:
		return nvme.AccessDenied
	case n.Protection != nvme.Writable:
		return nvme.WriteProtected
	}
	n.Format = index
	n.erase()
	return nil
}

func (d *Drive) sanitize(c *nvme.Command) error {
	action := c.CDW10 & 7
	supported := map[uint32]uint32{4: 1 << 0, 2: 1 << 1, 3: 1 << 2}
	switch {
	case d.SANICAP == 0:
		return nvme.InvalidOpcode
	case action == uint32(nvme.ExitFailureMode):
		if d.failedOp {
			return nvme.SanitizeFailed // it was a restricted one
		}
		return nil
	case supported[action] == 0 || d.SANICAP&supported[action] == 0:
		return nvme.InvalidField
	case d.Locking.Locked:
		return nvme.AccessDenied
	case d.NextSlot != 0:
		return nvme.Status(0x110) // firmware activation requires reset
	}
	d.state, d.action, d.started, d.failedOp = nvme.Sanitizing, c.CDW10, time.Now(), false
	return nil
}
