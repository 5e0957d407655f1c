package client

import (
	"context"
	"time"
)

// SlotMaps are a host's proposal, which waits for approval, and its approved map.
type SlotMaps struct {
	HostID         string    `json:"host_id"`
	State          string    `json:"state"` // none, proposed, approved
	ProposalDigest string    `json:"proposal_digest,omitempty"`
	Proposal       *SlotMap  `json:"proposal,omitempty"`
	ProposedAt     time.Time `json:"proposed_at,omitzero"`
	ApprovedDigest string    `json:"approved_digest,omitempty"`
	Approved       *SlotMap  `json:"approved,omitempty"`
	ApprovedAt     time.Time `json:"approved_at,omitzero"`
}

// SlotMap is what a host proposes and an operator approves by its digest.
type SlotMap struct {
	GPUClass string         `json:"gpu_class"`
	Nodes    []NUMANode     `json:"numa_nodes"`
	Slots    []SlotSpec     `json:"slots"`
	Unsafe   []UnsafeDevice `json:"unsafe,omitempty"` // devices that discovery refused to propose
	Spares   []SpareDevice  `json:"spares,omitempty"` // devices that could be rented and are in no slot

	ACSProfile string   `json:"acs_profile,omitempty"` // by which rule devices count as isolated
	ACSPorts   []string `json:"acs_ports,omitempty"`   // bridges it vouches for, as "vendor:device" patterns
	Kernel     string   `json:"kernel,omitempty"`
	Firmware   string   `json:"firmware,omitempty"` // of the machine

	Features []string `json:"features,omitempty"` // what the host can give its VMs
}

// NUMANode is what one node of a host has.
type NUMANode struct {
	Node      int    `json:"node"`
	Threads   []int  `json:"threads"`
	MemoryMiB uint64 `json:"memory_mib"`

	HugepageKiB int    `json:"hugepage_kib,omitempty"` // size of one, if the node has any
	Hugepages   uint64 `json:"hugepages,omitempty"`
}

// SlotSpec is one slot of a map.
type SlotSpec struct {
	Index       int    `json:"index"`
	GPU         Device `json:"gpu"`
	NVMe        Device `json:"nvme"`
	IBVF        Device `json:"ib_vf"`
	NUMANode    int    `json:"numa_node"`
	IOMMUGroups []int  `json:"iommu_groups"`
	Threads     []int  `json:"threads"`
	MemoryMiB   uint64 `json:"memory_mib"`
	OnDisk      string `json:"on_disk,omitempty"` // what the host found on the drive
	Why         string `json:"why,omitempty"`     // why these devices belong together
}

// UnsafeDevice is a device that cannot be given to a tenant.
type UnsafeDevice struct {
	Address string `json:"address"`
	Reason  string `json:"reason"`
}

// SpareDevice is a device that could be rented and is in no slot.
type SpareDevice struct {
	Kind     string `json:"kind"` // gpu, nvme, ib_vf
	Device   Device `json:"device"`
	NUMANode int    `json:"numa_node"`
	OnDisk   string `json:"on_disk,omitempty"`
	Why      string `json:"why,omitempty"` // why it is in no slot
}

// SlotMaps reads what a host proposes and what was approved. Look at it before
// approving: approval leads to the first wipe.
func (c *Client) SlotMaps(ctx context.Context, host string) (*SlotMaps, error) {
	return get[SlotMaps](ctx, c, path("/v1/hosts/%s/slot-map", host), nil)
}
