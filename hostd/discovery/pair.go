package discovery

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// slot is one on its way to be proposed.
type slot struct {
	gpu, nvme, vf *candidate
	node          *node
	approved      *domain.SlotSpec // the approved slot with this GPU
	threads       []uint16
	memoryMiB     uint64
	why           []string
}

func (s *slot) devices() []*candidate {
	out := []*candidate{s.gpu, s.nvme}
	if s.vf != nil {
		out = append(out, s.vf)
	}
	return out
}

// tier says how near two devices are; the nearest is the lowest.
type tier int

const (
	sameSwitch tier = iota
	sameRoot
	sameNode
	otherNode
)

func (t tier) String() string {
	return [...]string{"below the same PCIe switch", "below the same root complex", "on the same NUMA node", "on ANOTHER NUMA node"}[t]
}

// near is the tier of two devices, and how many links are between them.
func (l *look) near(a, b *candidate) (tier, int) {
	if a.node != b.node {
		return otherNode, 0
	}
	if a.pci.Root != b.pci.Root {
		return sameNode, 0
	}
	shared, below := 0, false
	for shared < min(len(a.pci.Above), len(b.pci.Above)) && a.pci.Above[shared] == b.pci.Above[shared] {
		if p := l.devices[a.pci.Above[shared]]; p != nil && p.Type == pci.UpstreamPort {
			below = true
		}
		shared++
	}
	hops := len(a.pci.Above) + len(b.pci.Above) - 2*shared
	if below {
		return sameSwitch, hops
	}
	return sameRoot, hops
}

// byPlace orders devices so that the order stays when buses are numbered anew: by
// node, root complex, and the slots down to the device.
func byPlace(a, b *candidate) int {
	if n := cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.pci.Root, b.pci.Root)); n != 0 {
		return n
	}
	pa, pb := append(slices.Clone(a.pci.Above), a.pci.Address), append(slices.Clone(b.pci.Above), b.pci.Address)
	for i := range min(len(pa), len(pb)) {
		if n := cmp.Or(cmp.Compare(pa[i].Device, pb[i].Device), cmp.Compare(pa[i].Function, pb[i].Function)); n != 0 {
			return n
		}
	}
	return cmp.Or(cmp.Compare(len(pa), len(pb)), a.pci.Address.Compare(b.pci.Address))
}

// pairing distributes safe devices over slots.
type pairing struct {
	l      *look
	slots  []*slot
	drives []*candidate // free ones, by place
	vfs    []*candidate // free ones, by place; VFs of one PF in order
	wantVF bool
	spares []spare
}

type spare struct {
	c   *candidate
	why string
}

// pair makes slots: what is approved stays together; then the nearest drive and VF
// of those that are left, the nearest pairs first.
func (l *look) pair(gpus, drives, vfs []*candidate) *pairing {
	p := &pairing{l: l, drives: drives, vfs: vfs, wantVF: len(vfs) > 0 || l.c.VF == VFInfiniBand || l.c.VF == VFEthernet}
	for _, list := range [][]*candidate{gpus, p.drives, p.vfs} {
		slices.SortFunc(list, byPlace)
	}
	p.keepApproved(&gpus)
	for _, g := range gpus {
		if len(p.slots) == l.c.SlotsMax {
			p.spares = append(p.spares, spare{g, fmt.Sprintf("the host has more GPUs than %d slots", l.c.SlotsMax)})
			continue
		}
		p.slots = append(p.slots, &slot{gpu: g})
	}
	p.nearestDrives()
	if p.wantVF {
		p.nearestVFs()
	}
	p.slots = slices.DeleteFunc(p.slots, func(s *slot) bool {
		switch {
		case s.nvme == nil:
			p.drop(s, "no drive is left for it")
		case s.vf == nil && p.wantVF:
			p.drop(s, "no virtual function is left for it")
		default:
			return false
		}
		return true
	})
	return p
}

// drop gives a slot up; its devices are spares.
func (p *pairing) drop(s *slot, why string) {
	p.spares = append(p.spares, spare{s.gpu, why})
	if s.nvme != nil {
		p.drives = append(p.drives, s.nvme)
	}
	if s.vf != nil {
		p.vfs = append(p.vfs, s.vf)
	}
}

// keepApproved takes GPUs of approved slots out of gpus, in the approved order, each
// with as many of its devices as are there.
func (p *pairing) keepApproved(gpus *[]*candidate) {
	m := p.l.c.Approved()
	if m == nil {
		return
	}
	take := func(list *[]*candidate, serial string) *candidate {
		i := slices.IndexFunc(*list, func(c *candidate) bool { return serial != "" && c.dev.Serial == serial })
		if i < 0 {
			return nil
		}
		c := (*list)[i]
		*list = slices.Delete(*list, i, i+1)
		return c
	}
	for i := range m.Slots {
		spec := &m.Slots[i]
		g := take(gpus, spec.GPU.Serial)
		if g == nil || len(p.slots) == p.l.c.SlotsMax {
			continue
		}
		s := &slot{gpu: g, nvme: take(&p.drives, spec.NVMe.Serial), vf: take(&p.vfs, spec.IBVF.Serial), approved: spec}
		p.slots = append(p.slots, s)
		for _, c := range []*candidate{s.nvme, s.vf} {
			if c != nil {
				t, _ := p.l.near(g, c)
				s.why = append(s.why, fmt.Sprintf("%s as approved, %s", word(c), t))
			}
		}
	}
}

func word(c *candidate) string {
	if c.kind == kindNVMe {
		return "drive"
	}
	return "VF"
}

// nearestDrives gives drives to the slots that have none.
func (p *pairing) nearestDrives() {
	type edge struct {
		t           tier
		hops        int
		slot, drive int
	}
	var edges []edge
	for i, s := range p.slots {
		for j, d := range p.drives {
			if s.nvme == nil {
				t, hops := p.l.near(s.gpu, d)
				edges = append(edges, edge{t, hops, i, j})
			}
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.hops, b.hops), cmp.Compare(a.slot, b.slot), cmp.Compare(a.drive, b.drive))
	})
	taken := map[*candidate]bool{}
	for _, e := range edges {
		if s, d := p.slots[e.slot], p.drives[e.drive]; s.nvme == nil && !taken[d] {
			s.nvme, taken[d] = d, true
			s.why = append(s.why, "drive "+e.t.String())
		}
	}
	p.drives = slices.DeleteFunc(p.drives, func(c *candidate) bool { return taken[c] })
}

// nearestVFs gives VFs to the slots that have none: of ports that are equally near
// the one that has given the fewest, so that slots share no port without need.
func (p *pairing) nearestVFs() {
	free := map[pci.Address][]*candidate{}
	var ports []pci.Address
	given := map[pci.Address]int{}
	for _, c := range p.vfs {
		if free[c.pf] == nil {
			ports = append(ports, c.pf)
		}
		free[c.pf] = append(free[c.pf], c)
	}
	for _, list := range free {
		slices.SortFunc(list, func(a, b *candidate) int { return cmp.Compare(a.dev.VFIndex, b.dev.VFIndex) })
	}
	for _, s := range p.slots {
		if s.vf != nil {
			given[s.vf.pf]++
		}
	}
	for range p.slots {
		type choice struct {
			t                       tier
			hops, given, slot, port int
		}
		var best *choice
		for i, s := range p.slots {
			for j, port := range ports {
				if s.vf != nil || len(free[port]) == 0 {
					continue
				}
				c := choice{given: given[port], slot: i, port: j}
				c.t, c.hops = p.l.near(s.gpu, free[port][0])
				if best == nil || cmp.Or(cmp.Compare(c.t, best.t), cmp.Compare(c.hops, best.hops), cmp.Compare(c.given, best.given), cmp.Compare(c.slot, best.slot), cmp.Compare(c.port, best.port)) < 0 {
					best = &c
				}
			}
		}
		if best == nil {
			break
		}
		s, port := p.slots[best.slot], ports[best.port]
		s.vf, free[port] = free[port][0], free[port][1:]
		given[port]++
		s.why = append(s.why, "VF "+best.t.String())
	}
	p.vfs = p.vfs[:0]
	for _, port := range ports {
		p.vfs = append(p.vfs, free[port]...)
	}
}
