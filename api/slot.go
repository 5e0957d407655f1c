package api

import (
	"encoding/json"
	"strconv"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Slot is one GPU, one NVMe drive and one InfiniBand VF of a host, with their
// cores and memory.
type Slot struct {
	ID           string        `json:"id" example:"slot_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN          string        `json:"crn"`
	Name         string        `json:"name" doc:"Its host's name and its position there" example:"r1-h07/3"`
	State        string        `json:"state" enum:"proposed,wiping,available,reserved,active,quarantined,retired,cordoned" doc:"cordoned: available, but its host takes nothing new"`
	HostID       string        `json:"host_id"`
	Index        uint32        `json:"index"`
	GPUClass     string        `json:"gpu_class,omitempty"`
	GPU          domain.Device `json:"gpu"`
	NVMe         domain.Device `json:"nvme"`
	IBVF         domain.Device `json:"ib_vf"`
	NUMANode     uint8         `json:"numa_node"`
	IOMMUGroups  []uint32      `json:"iommu_groups" nullable:"false"`
	MemoryMiB    uint64        `json:"memory_mib"`
	Generation   uint64        `json:"generation" doc:"Counts the slot's leases"`
	WipePolicy   string        `json:"wipe_policy" enum:"auto,sanitize,format,overwrite"`
	WipeDeadline string        `json:"wipe_deadline,omitempty" format:"date-time"`
	Attempt      uint64        `json:"wipe_attempt,omitempty"`
	TenantID     string        `json:"tenant_id,omitempty" doc:"Of the lease"`
	AllocationID string        `json:"allocation_id,omitempty"`
	VMID         string        `json:"vm_id,omitempty"`
	Condemned    bool          `json:"condemned,omitempty" doc:"Goes to quarantine after its lease"`
	Component    string        `json:"component,omitempty" doc:"What is broken: gpu, nvme, ib_vf, host"`
	RepairScope  string        `json:"repair_scope,omitempty" doc:"What has to be repaired: device, baseboard, host"`
	Reason       string        `json:"reason,omitempty"`
	ChangedAt    string        `json:"changed_at,omitempty" format:"date-time"`
}

type quarantineSlot struct {
	_      struct{} `json:"-" additionalProperties:"false"`
	Reason string   `json:"reason" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"fan-noise"`
}

func (s *Server) slotRoutes() {
	command(s, route{method: "POST", path: "/v1/slots/{s}/quarantine", id: "quarantine-slot", tag: "Fleet", summary: "Take a slot out of service", about: "A slot in use, or that a VM has not left yet, is condemned: it is wiped after its lease as ever, and then quarantined.", status: 202}, s.quarantineSlot)
	command(s, route{method: "POST", path: "/v1/slots/{s}/retire", id: "retire-slot", tag: "Fleet", summary: "Take a slot out for ever", about: "Only an available or quarantined one. What of it is not wiped is owed: see GET /v1/wipe-duties.", status: 202}, s.retireSlot)
	action(s, route{method: "POST", path: "/v1/slots/{s}/rewipe", id: "rewipe-slot", tag: "Fleet", summary: "Send a quarantined slot through another wipe", status: 202}, s.rewipeSlot)
	read(s, route{path: "/v1/slots", id: "list-slots", tag: "Fleet", summary: "List slots", query: append([]*param{
		queryParam("host_id", "Only this host's.", stringSchema), queryParam("state", "Only those in this state, or one of several: wiping,quarantined.", stringSchema),
	}, paging...)}, s.listSlots)
	read(s, route{path: "/v1/slots/{s}", id: "get-slot", tag: "Fleet", summary: "Read a slot"}, s.getSlot)
	read(s, route{path: "/v1/slots/{s}/leases", id: "list-slot-leases", tag: "Fleet", summary: "A slot's history: who had it, and the proof of each wipe", about: "Newest first; generation 0 is the first wipe.", query: []*param{reportsParam}}, s.slotLeases)
}

func (s *Server) quarantineSlot(c *call, b *quarantineSlot) (*Changed, *domain.Error) {
	m := &domain.QuarantineSlot{Reason: b.Reason}
	if err := pathID(c, "s", "slot", &m.Slot); err != nil {
		return nil, c.hidePlatform(err)
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	_, condemned := eventOf[*domain.SlotCondemned](&d)
	if len(d.events) == 0 { // it was already so: which of the two
		if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
			condemned = w.SlotIsCondemned(m.Slot)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	out := &Changed{ID: m.Slot.String(), State: "quarantined"}
	if condemned {
		out.State = "condemned"
	}
	return out, nil
}

func (s *Server) retireSlot(c *call, b *quarantineSlot) (*Changed, *domain.Error) {
	m := &domain.RetireSlot{Reason: b.Reason}
	if err := pathID(c, "s", "slot", &m.Slot); err != nil {
		return nil, c.hidePlatform(err)
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return &Changed{ID: m.Slot.String(), State: "retired"}, nil
}

func (s *Server) rewipeSlot(c *call) (*Changed, *domain.Error) {
	m := &domain.RewipeSlot{}
	if err := pathID(c, "s", "slot", &m.Slot); err != nil {
		return nil, c.hidePlatform(err)
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return &Changed{ID: m.Slot.String(), State: "wiping"}, nil
}

func (s *Server) listSlots(c *call) (*List[Slot], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	states, err := c.words("state")
	if err != nil {
		return nil, err
	}
	by := projections.SlotFilter{States: states}
	if h := c.echo.QueryParam("host_id"); by.Host.UnmarshalText([]byte(h)) != nil {
		return nil, notFound("host")
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Slot], error) {
		return s.o.Reads.Slots(c.ctx(), c.scope(), by, o)
	}, s.showSlot)
}

func (s *Server) getSlot(c *call) (Slot, *domain.Error) {
	var id domain.SlotID
	if err := c.fleetID("s", "slot", &id); err != nil {
		return Slot{}, err
	}
	return one(c, func() (projections.Slot, uint64, error) { return s.o.Reads.Slot(c.ctx(), c.scope(), id) }, s.showSlot)
}

func (s *Server) showSlot(r *projections.Slot) Slot {
	var spec domain.SlotSpec
	_ = json.Unmarshal(r.Spec, &spec) // written by the projector from this type
	if spec.IOMMUGroups == nil {
		spec.IOMMUGroups = []uint32{}
	}
	return Slot{
		ID: r.ID, CRN: s.crn("", "", "slot", r.ID), Name: r.Host + "/" + strconv.FormatUint(uint64(r.Index), 10), State: r.State, HostID: r.HostID,
		Index: r.Index, GPUClass: r.GPUClass, GPU: spec.GPU, NVMe: spec.NVMe, IBVF: spec.IBVF, NUMANode: spec.NUMANode, IOMMUGroups: spec.IOMMUGroups,
		MemoryMiB: spec.MemoryMiB, Generation: uint64(r.Generation), WipePolicy: r.WipePolicy, WipeDeadline: r.WipeDeadline.String(),
		Attempt: uint64(r.Attempt), TenantID: r.TenantID, AllocationID: r.AllocationID, VMID: r.VMID, Condemned: r.Condemned, Component: r.Component,
		RepairScope: r.Scope, Reason: r.Reason, ChangedAt: r.ChangedAt.String(),
	}
}

func (s *Server) slotLeases(c *call) (*List[Lease], *domain.Error) {
	var id domain.SlotID
	if err := c.fleetID("s", "slot", &id); err != nil {
		return nil, err
	}
	leases, err := all(c, func() ([]projections.Lease, uint64, error) { return s.o.Reads.SlotLeases(c.ctx(), c.scope(), id) }, showLease)
	if err == nil {
		err = s.proofs(c, leases.Items)
	}
	return leases, err
}
