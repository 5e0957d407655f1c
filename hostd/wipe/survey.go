package wipe

import (
	"context"
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// Survey is what a drive is apart from its data: everything that the owner of its
// admin queue can change and that is seen from outside. The survey taken at the
// first wipe is the drive's baseline.
type Survey struct {
	Serial     string       `json:"serial"`
	Model      string       `json:"model"`
	Vendor     uint16       `json:"vendor"`
	Subsystem  uint16       `json:"subsystem_vendor"`
	Subnqn     string       `json:"subnqn"`
	Controller uint16       `json:"controller"`
	Firmware   string       `json:"firmware"`
	Slots      [7]string    `json:"firmware_slots"`
	Active     uint8        `json:"active_slot"`
	Pending    uint8        `json:"pending_slot"`
	Features   features     `json:"features"`
	Capacity   uint64       `json:"capacity_bytes"`
	Unused     uint64       `json:"unallocated_bytes"`
	Namespaces []namespace  `json:"namespaces"`
	Allocated  []uint32     `json:"allocated_namespaces,omitempty"`
	Locking    nvme.Locking `json:"locking"`
}

// features are what the controller advertises: a drive that suddenly knows less is
// not the drive that was approved.
type features struct {
	Admin      uint16 `json:"oacs"`
	IO         uint16 `json:"oncs"`
	Sanitize   uint32 `json:"sanicap"`
	Format     uint8  `json:"fna"`
	Shared     uint8  `json:"cmic"`
	Protection uint8  `json:"nwpc"`
}

type namespace struct {
	nvme.Namespace
	Writes      nvme.WriteProtection
	Controllers []uint16 `json:",omitempty"`
}

// look surveys the drive. Its identity comes first, so that a wrong drive is asked
// for nothing more.
func look(ctx context.Context, c nvme.Controller, serial string) (*Survey, *nvme.Identity, error) {
	id, err := identify(ctx, c, serial)
	if err != nil {
		return nil, nil, err
	}
	s := &Survey{
		Serial: id.Serial, Model: id.Model, Vendor: id.Vendor, Subsystem: id.Subsystem, Subnqn: id.Subnqn, Controller: id.Controller, Firmware: id.Firmware,
		Features: features{id.Admin, id.IO, id.Sanitize, id.FormatAttrs, id.CMIC, id.Protection}, Capacity: id.Capacity, Unused: id.Unallocated,
	}
	fw, err := nvme.ReadFirmware(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	s.Slots, s.Active, s.Pending = fw.Slots, fw.Active, fw.Next
	if id.SecuritySend() {
		l, err := nvme.ReadLocking(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		s.Locking = *l
	}
	if id.Management() {
		if s.Allocated, err = nvme.AllocatedNamespaces(ctx, c); err != nil {
			return nil, nil, err
		}
	}
	active, err := nvme.ActiveNamespaces(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if len(active) == 0 || len(active) > maxNamespaces {
		return nil, nil, refuse(NamespacesChanged, "%d active namespaces, want 1 to %d", len(active), maxNamespaces)
	}
	for _, nsid := range active {
		n, err := lookNamespace(ctx, c, id, nsid)
		if err != nil {
			return nil, nil, err
		}
		s.Namespaces = append(s.Namespaces, *n)
	}
	return s, id, nil
}

// maxNamespaces bounds the work on one drive; a slot's drive has one.
const maxNamespaces = 32

func lookNamespace(ctx context.Context, c nvme.Controller, id *nvme.Identity, nsid uint32) (*namespace, error) {
	n, err := nvme.IdentifyNamespace(ctx, c, nsid)
	if err != nil {
		return nil, err
	}
	out := &namespace{Namespace: *n}
	out.WriteProtected = false // said better by Writes, where there is one
	if id.WriteProtects() {
		if out.Writes, err = nvme.ReadWriteProtection(ctx, c, nsid); err != nil {
			return nil, err
		}
	}
	if n.WriteProtected && out.Writes == nvme.Writable {
		return nil, refuse(ProtectedWrites, "namespace %d is write protected by the drive itself", nsid)
	}
	if id.ManyControllers() && id.Management() {
		if out.Controllers, err = nvme.NamespaceControllers(ctx, c, nsid); err != nil && !nvme.Unsupported(err) {
			return nil, err
		}
	}
	return out, nil
}

// identify asks the drive who it is, and refuses any other than the approved one.
func identify(ctx context.Context, c nvme.Controller, serial string) (*nvme.Identity, error) {
	id, err := nvme.Identify(ctx, c)
	if err != nil {
		return nil, err
	}
	if id.Serial != serial {
		return nil, refuse(WrongSerial, "the drive in the slot is %q, approved is %q", id.Serial, serial)
	}
	return id, nil
}

// fit refuses a drive that cannot be trusted whatever its baseline is. That the
// revision that runs is not the one its slot holds is no sign: some controllers
// (QEMU's) never write the log; the baseline says what is normal.
func (s *Survey) fit() error {
	switch {
	case s.Pending != 0:
		return refuse(FirmwarePending, "the next reset activates firmware slot %d (%q)", s.Pending, s.slot(s.Pending))
	case s.Locking.Locked || s.Locking.Shadowed:
		return refuse(Locked, "the drive is locked (or its first blocks are shadowed) by someone's key: revert it with the PSID on its label")
	case s.Locking.Enabled:
		return refuse(Locked, "someone has taken ownership of the drive's locks: revert it with the PSID on its label")
	}
	for i := range s.Namespaces {
		n := &s.Namespaces[i]
		switch {
		case n.Writes != nvme.Writable:
			return refuse(ProtectedWrites, "namespace %d has write protection %d", n.ID, n.Writes)
		case n.Formatting != 0:
			return refuse(FormatStuck, "a format of namespace %d has %d%% to do", n.ID, n.Formatting)
		case s.Features.Shared&(1<<1) != 0 && n.Shared && !slices.Equal(n.Controllers, []uint16{s.Controller}):
			return refuse(SharedDrive, "namespace %d is attached to the controllers %v, ours is %d", n.ID, n.Controllers, s.Controller)
		case len(n.Controllers) > 1:
			return refuse(SharedDrive, "namespace %d is attached to the controllers %v", n.ID, n.Controllers)
		}
	}
	return nil
}

func (s *Survey) slot(n uint8) string {
	if n == 0 || int(n) > len(s.Slots) {
		return ""
	}
	return s.Slots[n-1]
}

// differs says what is not as in the baseline, nil if all is.
func (s *Survey) differs(base *Survey) error {
	switch {
	case s.Serial != base.Serial:
		return refuse(WrongSerial, "serial %q, baseline %q", s.Serial, base.Serial)
	case s.Model != base.Model || s.Vendor != base.Vendor || s.Subsystem != base.Subsystem || s.Subnqn != base.Subnqn || s.Controller != base.Controller:
		return refuse(DeviceSwapped, "%s (%04x:%04x, controller %d, %s) is not the drive of the baseline: %s (%04x:%04x, controller %d, %s)",
			s.Model, s.Vendor, s.Subsystem, s.Controller, s.Subnqn, base.Model, base.Vendor, base.Subsystem, base.Controller, base.Subnqn)
	case s.Firmware != base.Firmware || s.Slots != base.Slots || s.Active != base.Active:
		return refuse(FirmwareChanged, "firmware %q in slot %d of %q, baseline %q in slot %d of %q", s.Firmware, s.Active, s.Slots, base.Firmware, base.Active, base.Slots)
	case s.Features != base.Features:
		return refuse(FeaturesChanged, "the controller advertises %+v, baseline %+v", s.Features, base.Features)
	case s.Locking != base.Locking:
		return refuse(Locked, "locks %+v, baseline %+v: revert the drive with the PSID on its label", s.Locking, base.Locking)
	case s.Capacity != base.Capacity || s.Unused != base.Unused || !slices.Equal(s.Allocated, base.Allocated) || len(s.Namespaces) != len(base.Namespaces):
		return refuse(NamespacesChanged, "namespaces %v, %d of %d bytes unallocated; baseline %v, %d of %d", s.ids(), s.Unused, s.Capacity, base.ids(), base.Unused, base.Capacity)
	}
	for i := range s.Namespaces {
		n, b := &s.Namespaces[i], &base.Namespaces[i]
		switch {
		case n.ID != b.ID || n.GUID != b.GUID || n.Bytes() != b.Bytes() || n.Shared != b.Shared || !slices.Equal(n.Controllers, b.Controllers):
			return refuse(NamespacesChanged, "namespace %d (%s, %d bytes, controllers %v), baseline %d (%s, %d bytes, controllers %v)",
				n.ID, n.GUID, n.Bytes(), n.Controllers, b.ID, b.GUID, b.Bytes(), b.Controllers)
		case !sameFormat(n, b):
			return refuse(FormatChanged, "namespace %d has %s, baseline %s", n.ID, formatOf(n), formatOf(b))
		case n.Writes != b.Writes:
			return refuse(ProtectedWrites, "namespace %d has write protection %d, baseline %d", n.ID, n.Writes, b.Writes)
		case n.Deallocated != b.Deallocated || n.Capacity != b.Capacity:
			return refuse(FeaturesChanged, "namespace %d: deallocated blocks read as %d, capacity %d blocks; baseline %d, %d", n.ID, n.Deallocated, n.Capacity, b.Deallocated, b.Capacity)
		}
	}
	return nil
}

func (s *Survey) ids() []uint32 {
	var ids []uint32
	for i := range s.Namespaces {
		ids = append(ids, s.Namespaces[i].ID)
	}
	return ids
}

func sameFormat(a, b *namespace) bool {
	return a.Format == b.Format && a.BlockBytes == b.BlockBytes && a.MetadataBytes == b.MetadataBytes && a.Extended == b.Extended && a.PI == b.PI
}

func formatOf(n *namespace) string {
	return fmt.Sprintf("LBA format %d (%d+%d bytes, protection %d)", n.Format, n.BlockBytes, n.MetadataBytes, n.PI)
}
