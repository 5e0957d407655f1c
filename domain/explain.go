package domain

import "fmt"

// PlacementAsk is what a launch says that matters to its placement. Without a
// project the site's own policies hold.
type PlacementAsk struct {
	SKU     SKUID
	SKUName string // instead of the id
	Count   uint32 // VMs; 0 is 1
	Project ProjectID
	Image   string // what it needs of a host; "": nothing
}

// Ask is what the launch asks of placement.
func (m *CreateAllocation) Ask() PlacementAsk {
	return PlacementAsk{SKU: m.SKU, SKUName: m.SKUName, Count: m.Count, Project: m.Project, Image: m.Image}
}

// HostReason says why a host was or was not chosen.
type HostReason struct {
	Host   HostID `json:"host_id"`
	VMs    int    `json:"vms,omitempty"` // of the request that go there
	Reason string `json:"reason"`
}

// placementRequest is the request as the policies of tenant and project shape it.
func (w *World) placementRequest(sku *SKU, features Features, count uint32, tenant TenantID, project ProjectID) placementRequest {
	return placementRequest{
		class: sku.GPUClass, features: features, shape: sku.Shape, count: count,
		spread:       w.policyWord("placement.strategy", "pack", tenant, project) == "spread",
		antiAffinity: w.policyWord("placement.anti_affinity", "none", tenant, project),
	}
}

// ExplainPlacement places the request on the fleet as this world has it, and says of
// every host, in the order of enrolment, why VMs would go there or not: the world of
// now, or one folded up to any moment of the past.
func (w *World) ExplainPlacement(ask PlacementAsk, limit int) ([]HostReason, *Error) {
	id := ask.SKU
	if id.IsZero() {
		id = w.skuNames[ask.SKUName]
	}
	sku := w.skus.get(id)
	if sku == nil {
		return nil, notFound("sku")
	}
	count := max(ask.Count, 1)
	if count > maxGangVMs {
		return nil, invalidField("count", "allocation.count", "count: want 1 to %d", maxGangVMs)
	}
	tenant, ok := w.TenantOfProject(ask.Project)
	if !ok && !ask.Project.IsZero() {
		return nil, notFound("project")
	}
	features := sku.Features
	if found, err := w.resolveImage(ask.Project, ask.Image); err == nil && found != nil {
		features |= found.Needs
	}
	e := explanation{w: w, req: w.placementRequest(sku, features, count, tenant, ask.Project), vms: map[uint32]int{}, racks: map[uint32]bool{}}
	e.out = w.place(e.req)
	for _, v := range e.out {
		e.vms[v.host]++
		e.racks[w.hosts.row(v.host).rack] = true
	}
	out := []HostReason{}
	for row, h := range w.hosts.rows() {
		if len(out) == limit {
			break
		}
		if !h.Removed {
			out = append(out, HostReason{h.ID, e.vms[row], e.why(row, h)})
		}
	}
	return out, nil
}

// explanation is a placement with what its reasons are found by.
type explanation struct {
	w     *World
	req   placementRequest
	out   []placedVM
	vms   map[uint32]int // by host
	racks map[uint32]bool
}

func (e *explanation) why(row uint32, h *Host) string {
	free := uint32(0)
	if !h.MapID.IsZero() {
		free = uint32(e.w.fleet.free[row].free)
	}
	switch {
	case e.vms[row] > 0:
		return "chosen"
	case h.MapID.IsZero():
		return "no approved slot map"
	case e.req.class != "" && h.GPUClass != e.req.class:
		return "another GPU class: " + h.GPUClass
	case !h.Features.Has(e.req.features):
		return fmt.Sprintf("does not offer %v", (e.req.features &^ h.Features).Names())
	case h.Faulted:
		return "faulted"
	case h.Silent != 0:
		return "silent: no heartbeat"
	case h.Draining:
		return "draining"
	case h.Cordoned:
		return "cordoned"
	case free < e.req.shape:
		return "too few free slots"
	case e.out == nil:
		return fmt.Sprintf("fits, but there is no room for all %d VMs", e.req.count)
	}
	first := e.out[0].host
	if class := e.w.hosts.row(first).GPUClass; h.GPUClass != class {
		return "fits, but all went to another GPU class: " + class
	}
	if f := e.w.hosts.row(first).Features; h.Features != f {
		return fmt.Sprintf("fits, but all went to hosts that offer %v and no more", f.Names())
	}
	if e.req.count == 1 {
		return e.whyOther(row, free, first)
	}
	if e.racks[h.rack] {
		return e.whyNotInRack()
	}
	return e.whyNotRack(h.rack)
}

// whyOther says why a single VM is on the host chosen, and not on this one.
func (e *explanation) whyOther(row, free, chosen uint32) string {
	took := uint32(e.w.fleet.free[chosen].free)
	p := placer{w: e.w, req: e.req}
	switch here, there := p.oneNode(row), p.oneNode(chosen); {
	case free > took:
		return fmt.Sprintf("fits, but has %d free slots: packing took a fuller host, with %d", free, took)
	case free < took:
		return fmt.Sprintf("fits, but has %d free slots: spreading took an emptier host, with %d", free, took)
	case there && !here:
		return "fits, but cannot give all slots from one NUMA node"
	case here && !there:
		return fmt.Sprintf("fits, but only the first %d of equally full hosts are looked at for one NUMA node", numaTries)
	}
	return "fits as well: of equals the one that was enrolled first is taken"
}

// whyNotInRack says why a host has no VM of a gang that is in its rack.
func (e *explanation) whyNotInRack() string {
	switch {
	case e.req.antiAffinity == "rack":
		return "anti-affinity: its rack has a VM of the allocation"
	case e.req.spread:
		return "fits, but emptier hosts of its rack were enough"
	}
	return "fits, but fuller hosts of its rack were enough"
}

// whyNotRack says why no VM of a gang is in the rack.
func (e *explanation) whyNotRack(rack uint32) string {
	p := placer{w: e.w, req: e.req}
	c := e.w.fleet.free[e.out[0].host].class
	room := uint32(0)
	if int(rack) < len(c.racks) {
		room = p.room(&c.racks[rack])
	}
	switch {
	case len(e.racks) > 1:
		return fmt.Sprintf("fits, but its rack has room for %d of %d VMs: other racks were enough", room, e.req.count)
	case room < e.req.count:
		return fmt.Sprintf("fits, but its rack has room for %d of %d VMs: one rack has room for all", room, e.req.count)
	}
	return "fits, but another rack was taken: packing takes the one with the least room that suffices, spreading the one with the most"
}
