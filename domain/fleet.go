package domain

import (
	"cmp"
	"math/bits"
	"slices"
)

// fleet is the placement index: for each GPU class, the hosts by number of free
// slots, and what fits into each rack. It holds nothing that does not follow from
// slots and hosts, and every order in it is the order of host numbers, so an
// index built up over a year and one rebuilt from a snapshot answer alike.
type fleet struct {
	racks   []rack
	rackBy  map[string]uint32
	classes []*classIndex // by name, then features: plain hosts are taken first
	free    []hostFree    // by host row
}

type rack struct {
	name  string
	leaf  string
	hosts []uint32
}

type hostFree struct {
	class *classIndex
	free  uint8
}

// classIndex is the hosts of one GPU class that can give their VMs the same features.
type classIndex struct {
	classKey
	byFree [maxSlotsOnMap + 1]bitset // hosts by number of free slots
	racks  []rackFit                 // by rack row
}

// rackFit counts how many VMs of 1, 2, 4 and 8 slots fit into a rack, and on how
// many of its hosts.
type rackFit struct {
	vms   [4]uint32
	hosts [4]uint32
}

func shapeIndex(shape uint32) int { return bits.TrailingZeros32(shape) }

func (f *fleet) addHost(w *World, row uint32) {
	h := w.hosts.row(row)
	key := h.Rack
	if f.rackBy == nil {
		f.rackBy = map[string]uint32{}
	}
	r, ok := f.rackBy[key]
	if !ok {
		r = uint32(len(f.racks))
		f.rackBy[key] = r
		f.racks = append(f.racks, rack{name: h.Rack, leaf: h.Leaf})
	}
	h.rack = r
	f.racks[r].hosts = append(f.racks[r].hosts, row)
	for int(row) >= len(f.free) {
		f.free = append(f.free, hostFree{})
	}
}

type classKey struct {
	name     string
	features Features
}

// suits reports whether a VM that asks for a class ("": any) and features may go there.
func (k classKey) suits(class string, features Features) bool {
	return (class == "" || k.name == class) && k.features.Has(features)
}

func (f *fleet) class(key classKey) *classIndex {
	i, ok := slices.BinarySearchFunc(f.classes, key, func(c *classIndex, k classKey) int {
		return cmp.Or(cmp.Compare(c.name, k.name), cmp.Compare(c.features, k.features))
	})
	if !ok {
		f.classes = slices.Insert(f.classes, i, &classIndex{classKey: key})
	}
	return f.classes[i]
}

// refresh brings the index up to date with one host.
func (f *fleet) refresh(w *World, row uint32) {
	h := w.hosts.row(row)
	if h.MapID.IsZero() {
		return
	}
	n := uint8(0)
	if h.placeable() {
		for _, s := range h.slots {
			if w.slots.row(s).State == SlotIsAvailable {
				n++
			}
		}
	}
	at := &f.free[row]
	if key := (classKey{h.GPUClass, h.Features}); at.class == nil || at.class.classKey != key {
		if at.class != nil { // an amended map: it leaves one class and enters another
			f.count(h, row, 0)
		}
		at.class = f.class(key)
	}
	f.count(h, row, n)
}

// count enters the number of a host's free slots.
func (f *fleet) count(h *Host, row uint32, n uint8) {
	at := &f.free[row]
	if at.free == n {
		return
	}
	c := at.class
	for int(h.rack) >= len(c.racks) {
		c.racks = append(c.racks, rackFit{})
	}
	fit := &c.racks[h.rack]
	for i := range fit.vms {
		now, before := uint32(n>>i), uint32(at.free>>i)
		fit.vms[i] += now - before
		fit.hosts[i] += min(now, 1) - min(before, 1)
	}
	if at.free > 0 {
		c.byFree[at.free].clear(row)
	}
	if n > 0 {
		c.byFree[n].set(row)
	}
	at.free = n
}

// bitset is a set of small numbers that finds its first member in a few steps:
// three levels of 64-bit words, each bit saying that the word below is not empty.
type bitset struct {
	levels [3][]uint64
}

func (b *bitset) set(i uint32) {
	for l := range b.levels {
		word := i / 64
		for int(word) >= len(b.levels[l]) {
			b.levels[l] = append(b.levels[l], 0)
		}
		b.levels[l][word] |= 1 << (i % 64)
		i = word
	}
}

func (b *bitset) clear(i uint32) {
	for l := range b.levels {
		word := i / 64
		if int(word) >= len(b.levels[l]) {
			return
		}
		b.levels[l][word] &^= 1 << (i % 64)
		if b.levels[l][word] != 0 {
			return
		}
		i = word
	}
}

// next is the first member at or above i, or none.
func (b *bitset) next(i uint32) uint32 {
	for l := 0; l < len(b.levels); l++ {
		word := i / 64
		if int(word) >= len(b.levels[l]) {
			return none
		}
		if l == len(b.levels)-1 { // the top is scanned; above 2^18 members it has more than one word
			rest := b.levels[l][word] >> (i % 64) << (i % 64)
			for rest == 0 {
				if word++; int(word) >= len(b.levels[l]) {
					return none
				}
				rest = b.levels[l][word]
			}
			return b.down(l, word*64+uint32(bits.TrailingZeros64(rest)))
		}
		if rest := b.levels[l][word] >> (i % 64); rest != 0 {
			return b.down(l, i+uint32(bits.TrailingZeros64(rest)))
		}
		i = word + 1
	}
	return none
}

// down follows the first set bit from member i of level l to level 0.
func (b *bitset) down(l int, i uint32) uint32 {
	for ; l > 0; l-- {
		i = i*64 + uint32(bits.TrailingZeros64(b.levels[l-1][i]))
	}
	return i
}
