package domain

// Device is one PCI function as a host saw it. Address is the full
// domain:bus:device.function; Serial is what identifies it for ever (addresses
// and kernel names change between boots).
type Device struct {
	Address   string `json:"address"`
	Serial    string `json:"serial"`
	Model     string `json:"model,omitempty"`
	SizeBytes uint64 `json:"size_bytes,omitempty"`
}

func (d *Device) wire(c *coder) {
	c.str(1, &d.Address)
	c.str(2, &d.Serial)
	c.str(3, &d.Model)
	c.uvar(4, &d.SizeBytes)
}

// SlotSpec is one slot of a proposed map: a GPU, an NVMe drive and an InfiniBand
// VF, with the whole cores and the memory that belong to it.
type SlotSpec struct {
	Index       uint32   `json:"index"` // position on the host, 0, 1, ...
	GPU         Device   `json:"gpu"`
	NVMe        Device   `json:"nvme"`
	IBVF        Device   `json:"ib_vf"`
	NUMANode    uint8    `json:"numa_node"`
	IOMMUGroups []uint32 `json:"iommu_groups"`
	Threads     []uint16 `json:"threads"` // hardware threads: whole cores with all their SMT siblings
	MemoryMiB   uint64   `json:"memory_mib"`
	OnDisk      string   `json:"on_disk,omitempty"` // what the host found on the drive, for the operator's eyes
}

func (s *SlotSpec) wire(c *coder) {
	uintField(c, 1, &s.Index)
	c.sub(2, &s.GPU)
	c.sub(3, &s.NVMe)
	c.sub(4, &s.IBVF)
	uintField(c, 5, &s.NUMANode)
	uints(c, 6, &s.IOMMUGroups)
	uints(c, 7, &s.Threads)
	c.uvar(8, &s.MemoryMiB)
	c.str(9, &s.OnDisk)
}

// NUMANode is what one node of a host has.
type NUMANode struct {
	Node      uint8    `json:"node"`
	Threads   []uint16 `json:"threads"`
	MemoryMiB uint64   `json:"memory_mib"`
}

func (n *NUMANode) wire(c *coder) {
	uintField(c, 1, &n.Node)
	uints(c, 2, &n.Threads)
	c.uvar(3, &n.MemoryMiB)
}

// UnsafeDevice is a device that discovery refused to propose.
type UnsafeDevice struct {
	Address string `json:"address"`
	Reason  string `json:"reason"`
}

func (u *UnsafeDevice) wire(c *coder) {
	c.str(1, &u.Address)
	c.str(2, &u.Reason)
}

// SlotMap is what a host proposes and an operator approves by its digest.
type SlotMap struct {
	GPUClass string         `json:"gpu_class"` // model class all GPUs of the host share: "h100-sxm5-80gb"
	Nodes    []NUMANode     `json:"numa_nodes"`
	Slots    []SlotSpec     `json:"slots"`
	Unsafe   []UnsafeDevice `json:"unsafe,omitempty"`
}

func (m *SlotMap) wire(c *coder) {
	c.str(1, &m.GPUClass)
	msgs(c, 2, &m.Nodes)
	msgs(c, 3, &m.Slots)
	msgs(c, 4, &m.Unsafe)
}

// Digest is the SHA-256 of the map's wire bytes: what an operator approves.
func (m *SlotMap) Digest() Digest { return DigestOf(encodeMessage(nil, m)) }
