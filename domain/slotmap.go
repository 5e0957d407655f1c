package domain

// Device is one PCI function as a host saw it. Address is the full
// domain:bus:device.function; Serial is what identifies it for ever (addresses
// and kernel names change between boots).
//
// The fields after SizeBytes were added later: a simulated host, and a map from
// before, has none of them. A device that has a PCIID came from real hardware, and
// the fields beside it say what is known of it.
type Device struct {
	Address   string `json:"address"`
	Serial    string `json:"serial"`
	Model     string `json:"model,omitempty"`
	SizeBytes uint64 `json:"size_bytes,omitempty"`

	Firmware   string           `json:"firmware,omitempty"`    // revision that runs
	PCIID      string           `json:"pci_id,omitempty"`      // vendor:device: "10de:2330"
	Subsystem  string           `json:"subsystem,omitempty"`   // vendor:device of the board
	SerialFrom SerialSource     `json:"serial_from,omitempty"` // what vouches for Serial
	PCISerial  string           `json:"pci_serial,omitempty"`  // Device Serial Number capability: readable whatever driver has the device
	UUID       string           `json:"uuid,omitempty"`        // of a GPU
	ModuleID   uint32           `json:"module_id,omitempty"`   // of a GPU, its place on the NVLink baseboard; 0: not known
	LBABytes   uint32           `json:"lba_bytes,omitempty"`   // of a drive: one logical block
	GUID       string           `json:"guid,omitempty"`        // of an InfiniBand VF, as it is set now
	MAC        string           `json:"mac,omitempty"`         // of an Ethernet VF, as it is set now
	Port       uint32           `json:"port,omitempty"`        // of a VF: its port, from 1
	PKeys      []uint16         `json:"pkeys,omitempty"`       // InfiniBand partitions its port is in now
	PF         string           `json:"pf,omitempty"`          // of a VF: address of its physical function
	VFIndex    uint32           `json:"vf_index,omitempty"`    // of a VF: which of its PF's, from 0
	Resets     []string         `json:"resets,omitempty"`      // how it can be reset, best first: "flr", "bus", ..., "hot" (of a drive: VFIO's, of the whole private bus)
	BARs       []BAR            `json:"bars,omitempty"`        // what a VM's MMIO aperture has to hold
	Functions  []DeviceFunction `json:"functions,omitempty"`   // the device's other functions: they go wherever it goes
	IOMMUGroup uint32           `json:"iommu_group,omitempty"` // number in this boot; 0 is a number
	Root       string           `json:"root,omitempty"`        // root complex and bus in this boot: "pci0000:16"
	Switch     string           `json:"switch,omitempty"`      // address of the nearest PCIe switch's upstream port; "": none
}

// SerialSource says what a device's serial stands on.
type SerialSource string

// The sources. A serial by location does not identify a device: another one of the
// same kind in its place is taken for it. It is allowed only for kinds of devices
// of which the operator's configuration says so.
const (
	SerialOfDevice   SerialSource = "device"   // the device's own word, through its driver
	SerialOfPCI      SerialSource = "pci"      // Device Serial Number capability, or VPD
	SerialOfPF       SerialSource = "pf"       // a VF: its physical function's identity, and its index
	SerialOfLocation SerialSource = "location" // host, root complex and slots down to it
)

func (d *Device) wire(c *coder) {
	c.str(1, &d.Address)
	c.str(2, &d.Serial)
	c.str(3, &d.Model)
	c.uvar(4, &d.SizeBytes)
	c.str(5, &d.Firmware)
	c.str(6, &d.PCIID)
	c.str(7, &d.Subsystem)
	stringField(c, 8, &d.SerialFrom)
	c.str(9, &d.PCISerial)
	c.str(10, &d.UUID)
	uintField(c, 11, &d.ModuleID)
	uintField(c, 12, &d.LBABytes)
	c.str(13, &d.GUID)
	c.str(14, &d.MAC)
	uintField(c, 15, &d.Port)
	uints(c, 16, &d.PKeys)
	c.str(17, &d.PF)
	uintField(c, 18, &d.VFIndex)
	strs(c, 19, &d.Resets)
	msgs(c, 20, &d.BARs)
	msgs(c, 21, &d.Functions)
	uintField(c, 22, &d.IOMMUGroup)
	c.str(23, &d.Root)
	c.str(24, &d.Switch)
}

// BAR is one base address register of a device.
type BAR struct {
	Index        uint8  `json:"index"` // 0 to 5; 6 is the expansion ROM
	SizeBytes    uint64 `json:"size_bytes"`
	Wide         bool   `json:"wide,omitempty"` // 64 bits
	Prefetchable bool   `json:"prefetchable,omitempty"`
	IO           bool   `json:"io,omitempty"` // I/O ports, not memory
}

func (b *BAR) wire(c *coder) {
	uintField(c, 1, &b.Index)
	c.uvar(2, &b.SizeBytes)
	c.bool(3, &b.Wide)
	c.bool(4, &b.Prefetchable)
	c.bool(5, &b.IO)
}

// DeviceFunction is another function of a device: a GPU's audio or USB.
type DeviceFunction struct {
	Address string `json:"address"`
	PCIID   string `json:"pci_id"`
	Class   string `json:"class"` // six hexadecimal digits: "040300"

	IOMMUGroup uint32 `json:"iommu_group,omitempty"`
}

func (f *DeviceFunction) wire(c *coder) {
	c.str(1, &f.Address)
	c.str(2, &f.PCIID)
	c.str(3, &f.Class)
	uintField(c, 4, &f.IOMMUGroup)
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
	Why         string   `json:"why,omitempty"`     // why these devices belong together, for the operator's eyes
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
	c.str(10, &s.Why)
}

// real says whether the slot's devices are real hardware; those of a simulated or lab
// host have no PCI ids.
func (s *SlotSpec) real() bool { return s.GPU.PCIID != "" || s.NVMe.PCIID != "" || s.IBVF.PCIID != "" }

// NUMANode is what one node of a host has. If it has hugepages set aside, the
// slots' memory is made of them.
type NUMANode struct {
	Node        uint8    `json:"node"`
	Threads     []uint16 `json:"threads"`
	MemoryMiB   uint64   `json:"memory_mib"`
	HugepageKiB uint32   `json:"hugepage_kib,omitempty"` // size of one
	Hugepages   uint64   `json:"hugepages,omitempty"`    // how many
}

func (n *NUMANode) wire(c *coder) {
	uintField(c, 1, &n.Node)
	uints(c, 2, &n.Threads)
	c.uvar(3, &n.MemoryMiB)
	uintField(c, 4, &n.HugepageKiB)
	c.uvar(5, &n.Hugepages)
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

// SpareDevice is a device that could be rented and is in no slot.
type SpareDevice struct {
	Kind     string `json:"kind"` // "gpu", "nvme", "ib_vf"
	Device   Device `json:"device"`
	NUMANode uint8  `json:"numa_node"`
	OnDisk   string `json:"on_disk,omitempty"`
	Why      string `json:"why,omitempty"` // why it is in no slot
}

func (s *SpareDevice) wire(c *coder) {
	c.str(1, &s.Kind)
	c.sub(2, &s.Device)
	uintField(c, 3, &s.NUMANode)
	c.str(4, &s.OnDisk)
	c.str(5, &s.Why)
}

// SlotMap is what a host proposes and an operator approves by its digest.
type SlotMap struct {
	GPUClass string         `json:"gpu_class"` // model class all GPUs of the host share: "h100-sxm5-80gb"
	Nodes    []NUMANode     `json:"numa_nodes"`
	Slots    []SlotSpec     `json:"slots"`
	Unsafe   []UnsafeDevice `json:"unsafe,omitempty"`
	Spares   []SpareDevice  `json:"spares,omitempty"`

	ACSProfile string   `json:"acs_profile,omitempty"` // by which rule devices count as isolated: "strict", or a name of the host's configuration
	ACSPorts   []string `json:"acs_ports,omitempty"`   // what that profile vouches for: "vendor:device" patterns of bridges, in order
	Kernel     string   `json:"kernel,omitempty"`      // release that was running
	Firmware   string   `json:"firmware,omitempty"`    // of the machine: vendor and version of its BIOS

	Features Features `json:"features,omitzero"` // what the host can give its VMs
}

func (m *SlotMap) wire(c *coder) {
	c.str(1, &m.GPUClass)
	msgs(c, 2, &m.Nodes)
	msgs(c, 3, &m.Slots)
	msgs(c, 4, &m.Unsafe)
	msgs(c, 5, &m.Spares)
	c.str(6, &m.ACSProfile)
	c.str(7, &m.Kernel)
	c.str(8, &m.Firmware)
	strs(c, 9, &m.ACSPorts)
	uintField(c, 10, &m.Features)
}

// Digest is the SHA-256 of the map's wire bytes: what an operator approves.
func (m *SlotMap) Digest() Digest { return digestMessage(m) }

// Check says why the map could not be approved, nil if it could: slots that share
// devices or cores, or take more memory than a node has, or leave the host nothing.
func (m *SlotMap) Check() error {
	if err := checkMap(m); err != nil {
		return err
	}
	return nil
}
