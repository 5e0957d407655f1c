package domain

// What logic level 1 did with gangs, for the history that was decided at it.

const placementFuelLevel1 = 4096

// gangLevel1 keeps VMs close: one rack if any has room, the one with the least room
// that suffices; else rack after rack, the roomiest first.
func (p *placer) gangLevel1(c *classIndex) {
	si := shapeIndex(p.req.shape)
	if p.req.antiAffinity != "rack" {
		best, bestFit := none, ^uint32(0)
		for r := range c.racks {
			fit := c.racks[r].vms[si]
			if p.req.antiAffinity == "host" {
				fit = min(fit, uint32(len(p.w.fleet.racks[r].hosts)))
			}
			if fit >= p.req.count && fit < bestFit {
				best, bestFit = uint32(r), fit
			}
		}
		p.fuel -= len(c.racks) / 64
		if best != none {
			if p.fillRackLevel1(c, best); uint32(len(p.out)) == p.req.count {
				return
			}
			p.out = p.out[:0]
		}
	}
	used := map[uint32]bool{}
	for uint32(len(p.out)) < p.req.count && p.fuel > 0 {
		best, bestFit := none, uint32(0)
		for r := range c.racks {
			if fit := c.racks[r].vms[si]; fit > bestFit && !used[uint32(r)] {
				best, bestFit = uint32(r), fit
			}
		}
		if best == none {
			return
		}
		used[best] = true
		p.fuel -= 1 + len(c.racks)/64
		p.fillRackLevel1(c, best)
	}
}

// fillRackLevel1 places as many VMs as are still wanted into the rack, fullest hosts
// first, so that whole hosts stay whole.
func (p *placer) fillRackLevel1(c *classIndex, r uint32) {
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
			given := uint64(0)
			for n := uint32(at.free) / p.req.shape; n > 0; n-- {
				if uint32(len(p.out)) == p.req.count {
					return
				}
				p.take(host, &given)
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
