package discovery

import (
	"fmt"
	"slices"
)

// slotMemoryMin is the least memory of a slot in MiB that a VM can start with.
const slotMemoryMin = 192

// keep is what of a node stays with the host.
func (l *look) keep(n *node) (cores int, memoryMiB uint64) {
	r := l.c.Reserve
	switch {
	case r.Cores > 0:
		cores = r.Cores
	case r.Cores == 0:
		cores = len(n.cores) / 16
		if n == l.nodes[0] { // where the kernel does its own work
			cores = max(cores, 1)
		}
	}
	switch {
	case r.MemoryMiB > 0:
		memoryMiB = uint64(r.MemoryMiB)
	case r.MemoryMiB == 0:
		memoryMiB = min(max(n.memoryMiB/16, min(1024, n.memoryMiB/4)), 32<<10)
	}
	return cores, memoryMiB
}

// room is what of a node slots can still take.
type room struct {
	cores  [][]uint16
	memory uint64
	pages  uint32 // KiB; 0: no hugepages
}

func (l *look) room(n *node) *room {
	cores, memory := l.keep(n)
	r := &room{cores: slices.Clone(n.cores[min(cores, len(n.cores)):])}
	if n.hugepages > 0 { // set aside for VMs already: the rest is the host's
		r.pages = n.hugepageKiB
		r.memory = min(n.hugepages*uint64(n.hugepageKiB)>>10, n.memoryMiB-min(n.memoryMiB, 64))
	} else if n.memoryMiB > memory {
		r.memory = n.memoryMiB - memory
	}
	return r
}

// shape gives the slots cores and memory of their nodes, to all the same: slots are
// sold alike. What an approved slot has stays. A slot for which nothing is left is
// given up.
func (p *pairing) shape() {
	rooms := map[*node]*room{}
	for _, n := range p.l.nodes {
		rooms[n] = p.l.room(n)
	}
	for _, s := range p.slots {
		i := slices.IndexFunc(p.l.nodes, func(n *node) bool { return n.id == s.gpu.node })
		s.node = p.l.nodes[i] // judged before: it is there
		p.reclaim(s, rooms[s.node])
	}
	cores, memory := p.equalShare(rooms)
	p.slots = slices.DeleteFunc(p.slots, func(s *slot) bool {
		r := rooms[s.node]
		if s.threads != nil {
			return false
		}
		if cores == 0 || memory == 0 || len(r.cores) < cores || r.memory < memory {
			p.drop(s, fmt.Sprintf("NUMA node %d has no cores or no memory left for another slot", s.node.id))
			return true
		}
		for _, c := range r.cores[:cores] {
			s.threads = append(s.threads, c...)
		}
		slices.Sort(s.threads)
		s.memoryMiB, r.cores, r.memory = memory, r.cores[cores:], r.memory-memory
		return false
	})
}

// reclaim gives an approved slot what it has, if that is all there.
func (p *pairing) reclaim(s *slot, r *room) {
	if s.approved == nil || int(s.approved.NUMANode) != s.node.id || s.approved.MemoryMiB > r.memory || s.approved.MemoryMiB == 0 {
		return
	}
	var mine, rest [][]uint16
	n := 0
	for _, c := range r.cores {
		if slices.Contains(s.approved.Threads, c[0]) {
			mine, n = append(mine, c), n+len(c)
		} else {
			rest = append(rest, c)
		}
	}
	threads := slices.Concat(mine...)
	slices.Sort(threads)
	had := slices.Clone(s.approved.Threads)
	slices.Sort(had)
	if n == 0 || !slices.Equal(threads, had) {
		return
	}
	s.threads, s.memoryMiB = s.approved.Threads, s.approved.MemoryMiB
	r.cores, r.memory = rest, r.memory-s.memoryMiB
}

// equalShare is what each slot that has nothing yet gets: what approved slots have,
// else as much as the fullest node can give to each of its own, where at least one
// core and a VM's least memory come before another slot.
func (p *pairing) equalShare(rooms map[*node]*room) (cores int, memory uint64) {
	want := map[*node]int{}
	for _, s := range p.slots {
		if s.threads == nil {
			want[s.node]++
			continue
		}
		if cores == 0 {
			cores, memory = p.coresOf(s), s.memoryMiB
		}
	}
	if cores > 0 {
		return cores, memory
	}
	cores = -1
	for n, k := range want {
		r := rooms[n]
		k = min(k, len(r.cores), int(r.memory/slotMemoryMin)) // the others are given up
		if k == 0 {
			continue
		}
		c, m := len(r.cores)/k, round(r.memory/uint64(k), r.pages)
		if cores < 0 {
			cores, memory = c, m
		}
		cores, memory = min(cores, c), min(memory, m)
	}
	return max(cores, 0), memory
}

func (p *pairing) coresOf(s *slot) int {
	n := 0
	for _, c := range s.node.cores {
		if slices.Contains(s.threads, c[0]) {
			n++
		}
	}
	return n
}

// round makes an amount of memory whole: whole hugepages, and where there is
// plenty whole GiB.
func round(mib uint64, pageKiB uint32) uint64 {
	step := max(uint64(pageKiB)>>10, 64)
	if mib >= 16<<10 {
		step = max(step, 1024)
	}
	return mib / step * step
}
