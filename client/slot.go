package client

import (
	"context"
	"iter"
	"time"
)

// Slot is one GPU, one NVMe drive and one InfiniBand VF of a host, with their cores
// and memory.
type Slot struct {
	ID           string    `json:"id"` // slot_...
	CRN          string    `json:"crn"`
	Name         string    `json:"name"`  // r1-h07/3: its host's name and its position there
	State        string    `json:"state"` // proposed, wiping, available, reserved, active, quarantined, retired, cordoned
	HostID       string    `json:"host_id"`
	Index        int       `json:"index"`
	GPUClass     string    `json:"gpu_class,omitempty"`
	GPU          Device    `json:"gpu"`
	NVMe         Device    `json:"nvme"`
	IBVF         Device    `json:"ib_vf"`
	NUMANode     int       `json:"numa_node"`
	IOMMUGroups  []int     `json:"iommu_groups"`
	MemoryMiB    uint64    `json:"memory_mib"`
	Generation   uint64    `json:"generation"` // counts the slot's leases
	WipePolicy   string    `json:"wipe_policy"`
	WipeDeadline time.Time `json:"wipe_deadline,omitzero"`
	WipeAttempt  uint64    `json:"wipe_attempt,omitempty"`
	TenantID     string    `json:"tenant_id,omitempty"` // of the lease
	AllocationID string    `json:"allocation_id,omitempty"`
	VMID         string    `json:"vm_id,omitempty"`
	Condemned    bool      `json:"condemned,omitempty"` // goes to quarantine after its lease
	Component    string    `json:"component,omitempty"` // what is broken
	RepairScope  string    `json:"repair_scope,omitempty"`
	Reason       string    `json:"reason,omitempty"`
	ChangedAt    time.Time `json:"changed_at,omitzero"`
}

// Device is one PCI function as a host saw it.
type Device struct {
	Address   string `json:"address"`
	Serial    string `json:"serial"`
	Model     string `json:"model,omitempty"`
	SizeBytes uint64 `json:"size_bytes,omitempty"`

	Firmware   string           `json:"firmware,omitempty"`
	PCIID      string           `json:"pci_id,omitempty"`      // vendor:device
	Subsystem  string           `json:"subsystem,omitempty"`   // vendor:device of the board
	SerialFrom string           `json:"serial_from,omitempty"` // what vouches for the serial: device, pci, pf, location
	PCISerial  string           `json:"pci_serial,omitempty"`
	UUID       string           `json:"uuid,omitempty"`      // of a GPU
	ModuleID   int              `json:"module_id,omitempty"` // of a GPU: its place on the NVLink baseboard
	LBABytes   int              `json:"lba_bytes,omitempty"` // of a drive
	GUID       string           `json:"guid,omitempty"`      // of an InfiniBand VF
	MAC        string           `json:"mac,omitempty"`       // of an Ethernet VF
	Port       int              `json:"port,omitempty"`
	PKeys      []int            `json:"pkeys,omitempty"`
	PF         string           `json:"pf,omitempty"` // of a VF: address of its physical function
	VFIndex    int              `json:"vf_index,omitempty"`
	Resets     []string         `json:"resets,omitempty"`
	BARs       []BAR            `json:"bars,omitempty"`
	Functions  []DeviceFunction `json:"functions,omitempty"` // they go wherever the device goes
	IOMMUGroup int              `json:"iommu_group,omitempty"`
	Root       string           `json:"root,omitempty"`   // root complex
	Switch     string           `json:"switch,omitempty"` // address of the nearest PCIe switch
}

// BAR is one base address register of a device.
type BAR struct {
	Index        int    `json:"index"`
	SizeBytes    uint64 `json:"size_bytes"`
	Wide         bool   `json:"wide,omitempty"` // 64 bits
	Prefetchable bool   `json:"prefetchable,omitempty"`
	IO           bool   `json:"io,omitempty"`
}

// DeviceFunction is another function of a device.
type DeviceFunction struct {
	Address string `json:"address"`
	PCIID   string `json:"pci_id"`
	Class   string `json:"class"`

	IOMMUGroup int `json:"iommu_group,omitempty"`
}

// Slots lists the fleet's slots; host and state may be empty.
func (c *Client) Slots(ctx context.Context, host, state string, options ...ListOption) iter.Seq2[Slot, error] {
	return list[Slot](ctx, c, "/v1/slots", queryOf("host_id", host, "state", state), options)
}

// Slot reads one.
func (c *Client) Slot(ctx context.Context, id string) (*Slot, error) {
	return get[Slot](ctx, c, path("/v1/slots/%s", id), nil)
}

// QuarantineSlot takes a slot out of service; one in use only after its lease.
// The reason is a slug: fan-noise.
func (c *Client) QuarantineSlot(ctx context.Context, id, reason string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/slots/%s/quarantine", id), map[string]string{"reason": reason})
}

// RetireSlot takes an available or quarantined slot out for ever. The reason is a
// slug. What of it is not wiped is owed: see [Client.WipeDuties].
func (c *Client) RetireSlot(ctx context.Context, id, reason string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/slots/%s/retire", id), map[string]string{"reason": reason})
}

// RewipeSlot sends a quarantined slot through another wipe.
func (c *Client) RewipeSlot(ctx context.Context, id string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/slots/%s/rewipe", id), nil)
}
