package domain

import (
	"cmp"
	"slices"
)

// Placement is a pure function of fleet and request. Every host that it looks at
// costs one unit of fuel, and so do 64 racks: it ends in bounded time, and the same
// world always gives the same answer. The fuel is enough for every gang on racks of
// up to smallRack hosts. Only where larger ones, enrolled in turns, lie between each
// other can a fit be overlooked; the launch is then refused as capacity.exhausted.
const placementFuel = 8192

// smallRack is the number of hosts up to which all of a rack are looked at. In a
// larger one, or where racks are not named, the index is asked for those that fit.
const smallRack = 64

// numaTries is how many hosts with equally many free slots are looked at for one
// that can give all slots from one NUMA node.
const numaTries = 16

type placementRequest struct {
	class        string // "" for any
	features     Features
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

// placer is one search; out is what it has already given away.
type placer struct {
	w    *World
	req  placementRequest
	fuel int
	out  []placedVM
}

// place finds room for all VMs or none. A nil result means that it does not fit.
func (w *World) place(req placementRequest) []placedVM {
	p := placer{w: w, req: req, fuel: placementFuel, out: make([]placedVM, 0, req.count)}
	if w.LogicLevel < 2 {
		p.fuel = placementFuelLevel1
	}
	return p.search()
}

// search looks through the GPU classes, by name, for one that can take all.
func (p *placer) search() []placedVM {
	for _, c := range p.w.fleet.classes {
		if !c.suits(p.req.class, p.req.features) {
			continue
		}
		p.out = p.out[:0]
		switch {
		case p.req.count == 1:
			p.single(c)
		case p.w.LogicLevel < 2:
			p.gangLevel1(c)
		default:
			p.gang(c)
		}
		if uint32(len(p.out)) == p.req.count {
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
		p.take(best, new(uint64))
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

// gang places all VMs of an allocation close together: in one rack if any has room
// for all, else in as few racks as can hold them.
func (p *placer) gang(c *classIndex) {
	racks := p.roomiest(c)
	var room uint32
	for _, r := range racks {
		room += r.room
	}
	if room < p.req.count {
		return
	}
	for _, r := range racks {
		if p.fillRack(c, r.rack); uint32(len(p.out)) == p.req.count {
			return
		}
	}
}

type rackRoom struct {
	rack uint32
	room uint32 // for VMs of the request
}

// roomiest lists the racks to fill, in order: one that has room for all (packing
// takes the one with the least, spreading the one with the most), else those with
// the most room.
func (p *placer) roomiest(c *classIndex) []rackRoom {
	p.fuel -= len(c.racks) / 64
	var best rackRoom
	top := make([]rackRoom, 0, p.req.count+1)
	for i := range c.racks {
		r := rackRoom{uint32(i), p.room(&c.racks[i])}
		if r.room >= p.req.count && (best.room == 0 || p.req.spread == (r.room > best.room) && r.room != best.room) {
			best = r
		}
		if r.room == 0 || len(top) == int(p.req.count) && r.room <= top[len(top)-1].room {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, r, func(a, b rackRoom) int {
			return cmp.Or(cmp.Compare(b.room, a.room), cmp.Compare(a.rack, b.rack))
		})
		top = slices.Insert(top, at, r)
		top = top[:min(len(top), int(p.req.count))]
	}
	if best.room > 0 {
		return []rackRoom{best}
	}
	return top
}

// room is how many VMs of the request a rack has room for.
func (p *placer) room(f *rackFit) uint32 {
	si := shapeIndex(p.req.shape)
	switch p.req.antiAffinity {
	case "host":
		return f.hosts[si]
	case "rack":
		return min(f.hosts[si], 1)
	}
	return f.vms[si]
}

// candidate is a host of the rack that is being filled.
type candidate struct {
	host  uint32
	left  uint32 // free slots
	given uint64 // slots given to VMs of this search, by their place on the host
}

// fillRack places as many VMs as are still wanted into the rack, each on the fullest
// host that fits, so that whole hosts stay whole, or on the emptiest.
func (p *placer) fillRack(c *classIndex, r uint32) {
	hosts := p.candidates(c, r)
	for uint32(len(p.out)) < p.req.count {
		var best *candidate
		for i := range hosts {
			h := &hosts[i]
			if h.left >= p.req.shape && (best == nil || p.req.spread && h.left > best.left || !p.req.spread && h.left < best.left) {
				best = h
			}
		}
		if best == nil {
			return
		}
		p.take(best.host, &best.given)
		best.left -= p.req.shape
		switch p.req.antiAffinity {
		case "host":
			best.left = 0
		case "rack":
			return
		}
	}
}

// candidates lists hosts of the rack that have room, in the order of enrolment: all
// of a small rack, of a larger one as many of the best as could be wanted.
func (p *placer) candidates(c *classIndex, r uint32) (out []candidate) {
	hosts := p.w.fleet.racks[r].hosts
	if len(hosts) <= smallRack {
		for _, host := range hosts {
			if p.fuel--; p.fuel < 0 {
				return out
			}
			if at := p.w.fleet.free[host]; at.class == c && uint32(at.free) >= p.req.shape {
				out = append(out, candidate{host: host, left: uint32(at.free)})
			}
		}
		return out
	}
	out = p.best(c, r, hosts[0], hosts[len(hosts)-1])
	slices.SortFunc(out, func(a, b candidate) int { return cmp.Compare(a.host, b.host) })
	return out
}

// best asks the index for the rack's fullest hosts that fit, or its emptiest.
func (p *placer) best(c *classIndex, r, first, last uint32) (out []candidate) {
	wanted := int(p.req.count) - len(p.out)
	for i := range maxSlotsOnMap + 1 - int(p.req.shape) {
		f := int(p.req.shape) + i
		if p.req.spread {
			f = maxSlotsOnMap - i
		}
		for host := c.byFree[f].next(first); host != none && host <= last; host = c.byFree[f].next(host + 1) {
			if p.fuel--; p.fuel < 0 || len(out) == wanted {
				return out
			}
			if p.w.hosts.row(host).rack == r {
				out = append(out, candidate{host: host, left: uint32(f)})
			}
		}
	}
	return out
}

// take gives the next VM its slots on the host: from the NUMA node with the
// fewest free slots that suffice, else from as few nodes as needed. given marks
// those that this search gave away.
func (p *placer) take(host uint32, given *uint64) {
	var nodes [256]uint8
	h := p.w.hosts.row(host)
	top := uint8(0)
	for i, row := range h.slots {
		if s := p.w.slots.row(row); s.State == SlotIsAvailable && *given>>i&1 == 0 {
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
		for i, row := range h.slots {
			if s := p.w.slots.row(row); want > 0 && int(s.NUMA) == node && s.State == SlotIsAvailable && *given>>i&1 == 0 {
				v.slots[v.n] = row
				*given |= 1 << i
				v.n++
				want--
			}
		}
		nodes[node] = 0
	}
	p.out = append(p.out, v)
}

// launchable counts VMs of the shape that fit right now.
func (w *World) launchable(class string, features Features, shape uint32) (n uint32) {
	for _, c := range w.fleet.classes {
		if !c.suits(class, features) {
			continue
		}
		for r := range c.racks {
			n += c.racks[r].vms[shapeIndex(shape)]
		}
	}
	return n
}
