package domain

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// fleetHost is a host of a fleet under test. Its slots are drawn as one character
// each: a digit is a free slot of that NUMA node, x one in use.
type fleetHost struct {
	rack  string
	class string
	slots string
	off   string // "", "cordoned", "silent", "faulted", "draining", "no map"
}

// fleetWorld is a world that has these hosts and nothing else.
func fleetWorld(hosts ...fleetHost) *World {
	w := NewWorld()
	w.LogicLevel = LogicLevel
	for i, f := range hosts {
		seed := DigestOf(fmt.Appendf(nil, "host %d", i)) // ids are random: tables rely on it
		id := HostID(seed[:16])
		(&HostEnrolled{ID: id, Name: fmt.Sprintf("h%d", i), Rack: f.rack, TokenID: seed}).apply(w, &Applied{})
		row := w.hosts.find(id)
		for k, c := range f.slots {
			id := SlotID(seed[16:])
			id[0] += byte(k)
			slot, s := w.slots.add(id)
			*s = Slot{ID: id, host: row, vm: none, Index: uint16(k), State: SlotIsActive}
			if c != 'x' {
				s.State, s.NUMA = SlotIsAvailable, uint8(c-'0')
			}
			w.hosts.row(row).slots = append(w.hosts.row(row).slots, slot)
		}
		h := w.hosts.row(row)
		h.GPUClass, h.MapID = f.class, Digest{1}
		switch f.off {
		case "cordoned":
			h.Cordoned = true
		case "silent":
			h.Silent = 1
		case "faulted":
			h.Faulted = true
		case "draining":
			h.Draining = true
		case "no map":
			h.MapID = Digest{}
		}
		w.fleet.refresh(w, row)
	}
	return w
}

func TestPlacement(t *testing.T) {
	t.Parallel()
	const whole, half = "00001111", "0000xxxx"
	two := []fleetHost{{slots: whole}, {slots: half}}
	racks := []fleetHost{{rack: "a", slots: whole}, {rack: "a", slots: half}, {rack: "b", slots: whole}, {rack: "b", slots: whole}, {rack: "c", slots: half}}
	for name, tt := range map[string]struct {
		fleet []fleetHost
		req   placementRequest
		want  string // host/slots of each VM; "" is no room
	}{
		"the fullest host that fits":       {two, placementRequest{shape: 4, count: 1}, "1/0123"},
		"whole hosts stay whole":           {two, placementRequest{shape: 1, count: 1}, "1/0"},
		"the emptiest host":                {two, placementRequest{shape: 1, count: 1, spread: true}, "0/0"},
		"only where it fits":               {two, placementRequest{shape: 8, count: 1}, "0/01234567"},
		"nowhere":                          {two[1:], placementRequest{shape: 8, count: 1}, ""},
		"one NUMA node":                    {[]fleetHost{{slots: "01x"}, {slots: "00x"}}, placementRequest{shape: 2, count: 1}, "1/01"},
		"the smallest node that suffices":  {[]fleetHost{{slots: "00011"}}, placementRequest{shape: 2, count: 1}, "0/34"},
		"as few nodes as needed":           {[]fleetHost{{slots: "011222"}}, placementRequest{shape: 4, count: 1}, "0/3450"},
		"of its class":                     {[]fleetHost{{class: "a", slots: "0"}, {class: "b", slots: "00"}}, placementRequest{class: "b", shape: 1, count: 1}, "1/0"},
		"of no known class":                {two, placementRequest{class: "b", shape: 1, count: 1}, ""},
		"all of one class":                 {[]fleetHost{{class: "a", slots: "00"}, {class: "b", slots: "000"}}, placementRequest{shape: 1, count: 3}, "1/0 1/1 1/2"},
		"not over two classes":             {[]fleetHost{{class: "a", slots: "00"}, {class: "b", slots: "000"}}, placementRequest{shape: 1, count: 4}, ""},
		"cordoned":                         {[]fleetHost{{slots: "0", off: "cordoned"}}, placementRequest{shape: 1, count: 1}, ""},
		"silent":                           {[]fleetHost{{slots: "0", off: "silent"}}, placementRequest{shape: 1, count: 1}, ""},
		"faulted":                          {[]fleetHost{{slots: "0", off: "faulted"}}, placementRequest{shape: 1, count: 1}, ""},
		"draining":                         {[]fleetHost{{slots: "0", off: "draining"}}, placementRequest{shape: 1, count: 1}, ""},
		"a gang in the tightest rack":      {racks, placementRequest{shape: 4, count: 3}, "1/0123 0/0123 0/4567"},
		"a gang in the roomiest rack":      {racks, placementRequest{shape: 4, count: 3, spread: true}, "2/0123 3/0123 2/4567"},
		"a gang over as few as possible":   {racks, placementRequest{shape: 4, count: 6}, "2/0123 2/4567 3/0123 3/4567 1/0123 0/0123"},
		"a gang that fills the fleet":      {racks, placementRequest{shape: 4, count: 8}, "2/0123 2/4567 3/0123 3/4567 1/0123 0/0123 0/4567 4/0123"},
		"a gang of one too many":           {racks, placementRequest{shape: 4, count: 9}, ""},
		"no two on a host":                 {racks, placementRequest{shape: 4, count: 2, antiAffinity: "host"}, "1/0123 0/0123"},
		"no two on a host, over racks":     {racks, placementRequest{shape: 4, count: 3, antiAffinity: "host"}, "1/0123 0/0123 2/0123"},
		"no two on a host, one too many":   {racks, placementRequest{shape: 4, count: 6, antiAffinity: "host"}, ""},
		"a rack by its hosts, not its VMs": {[]fleetHost{{rack: "a", slots: whole}, {rack: "a", slots: "x"}, {rack: "b", slots: "00"}, {rack: "b", slots: "00"}}, placementRequest{shape: 1, count: 2, antiAffinity: "host"}, "2/0 3/0"},
		"no two in a rack":                 {racks, placementRequest{shape: 1, count: 3, antiAffinity: "rack"}, "1/0 2/0 4/0"},
		"no two in a rack, one too many":   {racks, placementRequest{shape: 1, count: 4, antiAffinity: "rack"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := fleetWorld(tt.fleet...)
			if got := drawn(w, w.place(tt.req)); got != tt.want {
				t.Errorf("placed %q, want %q", got, tt.want)
			}
		})
	}
}

// drawn writes VMs as host/slots.
func drawn(w *World, vms []placedVM) string {
	var out []string
	for _, v := range vms {
		s := fmt.Sprintf("%d/", v.host)
		for _, row := range v.slots[:v.n] {
			s += fmt.Sprint(w.slots.row(row).Index)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// dumbFleet places as the rules say and knows no index: it looks at every slot of
// every host for each VM.
type dumbFleet struct {
	w     *World
	req   placementRequest
	given map[uint32]bool
}

// free are the host's free slots that were not given, by NUMA node.
func (d *dumbFleet) free(host uint32) (n uint32, byNode [10]uint32) {
	h := d.w.hosts.row(host)
	if h.MapID.IsZero() || h.Cordoned || h.Draining || h.Faulted || h.Removed || h.Silent != 0 {
		return 0, byNode
	}
	for _, row := range h.slots {
		if s := d.w.slots.row(row); s.State == SlotIsAvailable && !d.given[row] {
			n++
			byNode[s.NUMA]++
		}
	}
	return n, byNode
}

func (d *dumbFleet) oneNode(host uint32) bool {
	_, byNode := d.free(host)
	return slices.Max(byNode[:]) >= d.req.shape
}

// choose is the best of the hosts for one VM, or none.
func (d *dumbFleet) choose(hosts []uint32, numa bool) uint32 {
	best := none
	for _, h := range hosts {
		n, _ := d.free(h)
		if n < d.req.shape {
			continue
		}
		if best == none {
			best = h
			continue
		}
		have, _ := d.free(best)
		better := n < have
		if d.req.spread {
			better = n > have
		}
		if better || n == have && numa && d.oneNode(h) && !d.oneNode(best) {
			best = h
		}
	}
	return best
}

// fill puts up to n VMs on the hosts of one rack.
func (d *dumbFleet) fill(hosts []uint32, n int) (out []uint32) {
	hosts = slices.Clone(hosts)
	for len(out) < n {
		h := d.choose(hosts, false)
		if h == none {
			break
		}
		out = append(out, h)
		left := d.req.shape
		for _, row := range d.w.hosts.row(h).slots {
			if s := d.w.slots.row(row); left > 0 && s.State == SlotIsAvailable && !d.given[row] {
				d.given[row] = true
				left--
			}
		}
		if d.req.antiAffinity == "host" {
			hosts = slices.DeleteFunc(hosts, func(o uint32) bool { return o == h })
		}
		if d.req.antiAffinity == "rack" {
			break
		}
	}
	return out
}

// place names the host of each VM, or nothing.
func (d *dumbFleet) place() []uint32 {
	classes := map[string][]uint32{}
	for row, h := range d.w.hosts.rows() {
		if !h.MapID.IsZero() && (d.req.class == "" || h.GPUClass == d.req.class) {
			classes[h.GPUClass] = append(classes[h.GPUClass], row)
		}
	}
	for _, class := range sortedKeys(classes) {
		d.given = map[uint32]bool{}
		if d.req.count == 1 {
			if h := d.choose(classes[class], true); h != none {
				return []uint32{h}
			}
			continue
		}
		if out := d.gang(classes[class]); out != nil {
			return out
		}
	}
	return nil
}

func (d *dumbFleet) gang(all []uint32) (out []uint32) {
	type rackOf struct {
		hosts []uint32
		room  int
	}
	var racks []*rackOf
	for name := range d.w.fleet.racks { // in the order in which their first hosts came
		r := &rackOf{}
		for _, h := range all {
			if d.w.hosts.row(h).Rack == d.w.fleet.racks[name].name {
				r.hosts = append(r.hosts, h)
			}
		}
		r.room = len(d.fill(r.hosts, 1<<20))
		d.given = map[uint32]bool{}
		racks = append(racks, r)
	}
	var one *rackOf
	for _, r := range racks {
		if r.room >= int(d.req.count) && (one == nil || !d.req.spread && r.room < one.room || d.req.spread && r.room > one.room) {
			one = r
		}
	}
	if one != nil {
		return d.fill(one.hosts, int(d.req.count))
	}
	slices.SortStableFunc(racks, func(a, b *rackOf) int { return b.room - a.room })
	for _, r := range racks {
		out = append(out, d.fill(r.hosts, int(d.req.count)-len(out))...)
	}
	if len(out) < int(d.req.count) {
		return nil
	}
	return out
}

// TestPlacementIsWhatTheRulesSay: on any fleet the index and its shortcuts choose
// what looking at everything chooses; all VMs are placed or none; each has as many
// slots as it asked for, free ones of its host, from one NUMA node where one had
// them; and what the index promises is there.
func TestPlacementIsWhatTheRulesSay(t *testing.T) {
	t.Parallel()
	var gangs, large, refused int
	rapid.Check(t, func(rt *rapid.T) {
		var hosts []fleetHost
		racks, n := rapid.IntRange(1, 4).Draw(rt, "racks"), rapid.IntRange(1, 14).Draw(rt, "hosts")
		big := rapid.IntRange(0, 3).Draw(rt, "big") == 0
		if big {
			n = rapid.IntRange(smallRack+1, 2*smallRack).Draw(rt, "many")
		}
		for range n {
			h := fleetHost{rack: fmt.Sprint(rapid.IntRange(1, racks).Draw(rt, "rack")), class: rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(rt, "class")}
			h.slots = rapid.StringOfN(rapid.RuneFrom([]rune("00112x")), 1, 12, -1).Draw(rt, "slots")
			h.off = rapid.SampledFrom([]string{"", "", "", "", "", "", "", "cordoned", "silent", "faulted", "draining", "no map"}).Draw(rt, "off")
			hosts = append(hosts, h)
		}
		w := fleetWorld(hosts...)
		for range 8 {
			req := placementRequest{
				class: rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "of"), shape: rapid.SampledFrom([]uint32{1, 2, 4, 8}).Draw(rt, "shape"),
				count: rapid.SampledFrom([]uint32{1, 2, 3, 5, 9, 20}).Draw(rt, "count"), spread: rapid.Bool().Draw(rt, "spread"),
				antiAffinity: rapid.SampledFrom([]string{"none", "host", "rack"}).Draw(rt, "apart"),
			}
			if big && req.count == 1 { // of many equal hosts only numaTries are looked at
				continue
			}
			got := w.place(req)
			var at []uint32
			for _, v := range got {
				at = append(at, v.host)
			}
			if want := (&dumbFleet{w: w, req: req}).place(); !slices.Equal(at, want) {
				rt.Fatalf("%+v: on hosts %v, the rules say %v", req, at, want)
			}
			if got == nil {
				refused++
				continue
			}
			if req.count > 1 {
				gangs++
			}
			if len(w.fleet.racks[w.hosts.row(at[0]).rack].hosts) > smallRack {
				large++
			}
			checkPlaced(rt, w, req, got)
		}
	})
	if gangs == 0 || large == 0 || refused == 0 {
		t.Errorf("%d gangs, %d in large racks, %d without room", gangs, large, refused)
	}
}

func checkPlaced(t *rapid.T, w *World, req placementRequest, vms []placedVM) {
	if len(vms) != int(req.count) {
		t.Fatalf("%d VMs of %d", len(vms), req.count)
	}
	d := &dumbFleet{w: w, req: req, given: map[uint32]bool{}}
	for _, v := range vms {
		if uint32(v.n) != req.shape {
			t.Fatalf("a VM of %d slots, want %d", v.n, req.shape)
		}
		one, nodes := d.oneNode(v.host), map[uint8]bool{}
		for _, row := range v.slots[:v.n] {
			s := w.slots.row(row)
			if s.State != SlotIsAvailable || s.host != v.host || d.given[row] {
				t.Fatalf("slot %d of host %d is %s, given twice: %v", s.Index, v.host, s.State, d.given[row])
			}
			d.given[row], nodes[s.NUMA] = true, true
		}
		if one && len(nodes) > 1 {
			t.Fatalf("a VM on %d NUMA nodes, and one had room", len(nodes))
		}
	}
	if n := w.launchable(req.class, req.features, req.shape); n < uint32(len(vms)) {
		t.Fatalf("%d VMs were placed, %d are launchable", len(vms), n)
	}
}

// TestLaunchable counts what fits, and no more.
func TestLaunchable(t *testing.T) {
	t.Parallel()
	w := fleetWorld(fleetHost{class: "a", slots: "0001111"}, fleetHost{class: "b", slots: "00"}, fleetHost{class: "a", slots: "0000", off: "cordoned"})
	for _, tt := range []struct {
		class string
		shape uint32
		want  uint32
	}{{"", 1, 9}, {"", 2, 4}, {"a", 2, 3}, {"a", 4, 1}, {"b", 4, 0}, {"c", 1, 0}} {
		if n := w.launchable(tt.class, 0, tt.shape); n != tt.want {
			t.Errorf("%q x %d: %d, want %d", tt.class, tt.shape, n, tt.want)
		}
	}
}

// TestPlacementIsBounded: however large and fragmented the fleet, one decision looks
// at a bounded number of hosts, and where racks are not named it finds what is there.
func TestPlacementIsBounded(t *testing.T) {
	t.Parallel()
	const hosts = 20_000
	used := make([]fleetHost, hosts)
	for i := range used {
		used[i].slots = "xx"
		if i%2 == 0 {
			used[i].slots = "0x"
		}
	}
	used[hosts-1].slots, used[hosts-2].slots = "00", "00"
	search := func(fleet []fleetHost, req placementRequest) (found, looks int) {
		p := placer{w: fleetWorld(fleet...), req: req, fuel: placementFuel}
		return len(p.search()), placementFuel - p.fuel
	}
	if found, looks := search(used, placementRequest{shape: 2, count: 2}); found != 2 || looks > 8 {
		t.Errorf("no racks: %d VMs after %d looks", found, looks)
	}
	if found, looks := search(used, placementRequest{shape: 1, count: 64, antiAffinity: "host"}); found != 64 || looks > 128 {
		t.Errorf("no racks, a gang: %d VMs after %d looks", found, looks)
	}
	small := slices.Clone(used[:64*smallRack]) // 64 racks, each to be looked through for one VM
	for i := range small {
		small[i].rack, small[i].slots = fmt.Sprint(i%64), "x"
		if i/64 == smallRack-1 {
			small[i].slots = "0"
		}
	}
	if found, looks := search(small, placementRequest{shape: 1, count: 64}); found != 64 || looks > placementFuel {
		t.Errorf("small racks: %d VMs after %d looks", found, looks)
	}
	for i := range used { // 100 racks of 200 hosts, in turns: the worst there is
		used[i].rack = fmt.Sprint(i % 100)
	}
	if _, looks := search(used, placementRequest{shape: 1, count: 64, antiAffinity: "rack"}); looks > placementFuel+64 {
		t.Errorf("racks in turns: %d looks", looks)
	}
}

// TestPlacementOfLevel1: history that was decided at level 1 is decided as it was.
func TestPlacementOfLevel1(t *testing.T) {
	t.Parallel()
	racks := []fleetHost{{rack: "a", slots: "0000"}, {rack: "a", slots: "x"}, {rack: "b", slots: "00"}, {rack: "b", slots: "000"}}
	for _, tt := range []struct {
		req  placementRequest
		want string
	}{
		{placementRequest{shape: 1, count: 3, spread: true}, "0/0 0/1 0/2"},
		{placementRequest{shape: 1, count: 5, spread: true}, "2/0 2/1 3/0 3/1 3/2"},
		{placementRequest{shape: 1, count: 2, antiAffinity: "host"}, "2/0 3/0"},
	} {
		w := fleetWorld(racks...)
		w.LogicLevel = 1
		if got := drawn(w, w.place(tt.req)); got != tt.want {
			t.Errorf("%+v: placed %q, want %q", tt.req, got, tt.want)
		}
	}
}
