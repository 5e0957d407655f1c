package domain

// Placement is a pure function of fleet and request. It looks at no more than
// placementFuel hosts and racks: with too little fuel it may overlook a fit, but
// the same world always gives the same answer in bounded time.
const placementFuel = 4096

// numaTries is how many hosts with equally many free slots are looked at for one
// that can give all slots from one NUMA node.
const numaTries = 16

type placementRequest struct {
	class        string // "" for any
	shape        uint32
	count        uint32
	spread       bool   // emptiest host first, instead of the fullest that fits
	antiAffinity string // "none", "host", "rack"
}

type placedVM struct {
	host  uint32
	slots [8]uint32
	n     uint8
}

// placer is one search; taken is what it has already given away.
type placer struct {
	w    *World
	req  placementRequest
	fuel int
	out  []placedVM
}

// place finds room for all VMs or none. A nil result means that it does not fit.
func (w *World) place(req placementRequest) []placedVM {
	p := placer{w: w, req: req, fuel: placementFuel, out: make([]placedVM, 0, req.count)}
	for _, c := range w.fleet.classes {
		if req.class != "" && c.name != req.class {
			continue
		}
		p.out = p.out[:0]
		if req.count == 1 {
			p.single(c)
		} else {
			p.gang(c)
		}
		if uint32(len(p.out)) == req.count {
			return p.out
		}
	}
	return nil
}

// single takes the fullest host that fits (or the emptiest), preferring one that
// can give all slots from one NUMA node.
func (p *placer) single(c *classIndex) {
	from, to, step := int(p.req.shape), maxSlotsOnMap, 1
	if p.req.spread {
		from, to, step = maxSlotsOnMap, int(p.req.shape), -1
	}
	for f := from; f != to+step; f += step {
		first := c.byFree[f].next(0)
		if first == none {
			continue
		}
		best := first
		for host, tries := first, 0; host != none && tries < numaTries && p.fuel > 0; tries++ {
			p.fuel--
			if p.oneNode(host) {
				best = host
				break
			}
			host = c.byFree[f].next(host + 1)
		}
		p.take(best)
		return
	}
}

// oneNode reports whether one NUMA node of the host has all the slots asked for.
func (p *placer) oneNode(host uint32) bool {
	var free [256]uint8
	for _, row := range p.w.hosts.row(host).slots {
		if s := p.w.slots.row(row); s.State == SlotIsAvailable {
			if free[s.NUMA]++; uint32(free[s.NUMA]) == p.req.shape {
				return true
			}
		}
	}
	return false
}

// gang keeps VMs close: one rack if any has room, the one with the least room
// that suffices; else rack after rack, the roomiest first.
func (p *placer) gang(c *classIndex) {
	si := shapeIndex(p.req.shape)
	if p.req.antiAffinity != "rack" {
		best, bestFit := none, ^uint32(0)
		for r := range c.racks {
			fit := c.racks[r][si]
			if p.req.antiAffinity == "host" {
				fit = min(fit, uint32(len(p.w.fleet.racks[r].hosts)))
			}
			if fit >= p.req.count && fit < bestFit {
				best, bestFit = uint32(r), fit
			}
		}
		p.fuel -= len(c.racks) / 64
		if best != none {
			if p.fillRack(c, best); uint32(len(p.out)) == p.req.count {
				return
			}
			p.out = p.out[:0]
		}
	}
	used := map[uint32]bool{}
	for uint32(len(p.out)) < p.req.count && p.fuel > 0 {
		best, bestFit := none, uint32(0)
		for r := range c.racks {
			if fit := c.racks[r][si]; fit > bestFit && !used[uint32(r)] {
				best, bestFit = uint32(r), fit
			}
		}
		if best == none {
			return
		}
		used[best] = true
		p.fuel -= 1 + len(c.racks)/64
		p.fillRack(c, best)
	}
}

// fillRack places as many VMs as are still wanted into the rack, fullest hosts
// first, so that whole hosts stay whole.
func (p *placer) fillRack(c *classIndex, r uint32) {
	hosts := p.w.fleet.racks[r].hosts
	for f := p.req.shape; f <= maxSlotsOnMap; f++ {
		if c.byFree[f].next(0) == none {
			continue // nowhere, so not in this rack
		}
		for _, host := range hosts {
			at := p.w.fleet.free[host]
			if at.class != c || uint32(at.free) != f {
				continue
			}
			if p.fuel--; p.fuel < 0 {
				return
			}
			for n := uint32(at.free) / p.req.shape; n > 0; n-- {
				if uint32(len(p.out)) == p.req.count {
					return
				}
				p.take(host)
				if p.req.antiAffinity == "rack" {
					return
				}
				if p.req.antiAffinity == "host" {
					break
				}
			}
		}
	}
}

// take gives the next VM its slots on the host: from the NUMA node with the
// fewest free slots that suffice, else from as few nodes as needed.
func (p *placer) take(host uint32) {
	var nodes [256]uint8
	h := p.w.hosts.row(host)
	top := uint8(0)
	for _, row := range h.slots {
		if s := p.w.slots.row(row); s.State == SlotIsAvailable && !p.given(host, row) {
			nodes[s.NUMA]++
			top = max(top, s.NUMA)
		}
	}
	v := placedVM{host: host}
	for uint32(v.n) < p.req.shape {
		want := uint8(p.req.shape) - v.n
		node, have := -1, uint8(0)
		for i := 0; i <= int(top); i++ {
			n := nodes[i]
			switch {
			case n == 0:
			case node < 0, n >= want && (have < want || n < have), n < want && have < want && n > have:
				node, have = i, n
			}
		}
		if node < 0 {
			return // the index promised more than there is: nothing is placed
		}
		for _, row := range h.slots {
			if s := p.w.slots.row(row); want > 0 && int(s.NUMA) == node && s.State == SlotIsAvailable && !p.given(host, row) {
				v.slots[v.n] = row
				v.n++
				want--
			}
		}
		nodes[node] = 0
	}
	p.out = append(p.out, v)
}

func (p *placer) given(host, row uint32) bool {
	for i := len(p.out) - 1; i >= 0; i-- {
		if o := &p.out[i]; o.host == host {
			for _, s := range o.slots[:o.n] {
				if s == row {
					return true
				}
			}
		}
	}
	return false
}

// launchable counts VMs of the shape that fit right now.
func (w *World) launchable(class string, shape uint32) (n uint32) {
	for _, c := range w.fleet.classes {
		if class != "" && c.name != class {
			continue
		}
		for r := range c.racks {
			n += c.racks[r][shapeIndex(shape)]
		}
	}
	return n
}

// HostReason says why a host was or was not chosen.
type HostReason struct {
	Host   HostID `json:"host_id"`
	Reason string `json:"reason"`
}

// ExplainPlacement says for every host why a VM of the shape would or would not
// go there now.
func (w *World) ExplainPlacement(class string, shape uint32, limit int) []HostReason {
	out := []HostReason{}
	chosen := none
	if vms := w.place(placementRequest{class: class, shape: shape, count: 1}); vms != nil {
		chosen = vms[0].host
	}
	for row := uint32(0); row < w.hosts.next && len(out) < limit; row++ {
		h := w.hosts.row(row)
		if h.ID.IsZero() || h.Removed {
			continue
		}
		out = append(out, HostReason{h.ID, w.whyNot(row, h, class, shape, chosen)})
	}
	return out
}

func (w *World) whyNot(row uint32, h *Host, class string, shape, chosen uint32) string {
	switch {
	case row == chosen:
		return "chosen"
	case h.MapID.IsZero():
		return "no approved slot map"
	case class != "" && h.GPUClass != class:
		return "another GPU class: " + h.GPUClass
	case h.Faulted:
		return "faulted"
	case h.Silent != 0:
		return "silent: no heartbeat"
	case h.Draining:
		return "draining"
	case h.Cordoned:
		return "cordoned"
	case uint32(w.fleet.free[row].free) < shape:
		return "too few free slots"
	}
	return "fits, but another host was fuller or can give all slots from one NUMA node"
}
