package domain

import (
	"strings"
	"testing"
)

// TestExplainPlacement: the whole request is placed, and every host says why it has
// no VM of it.
func TestExplainPlacement(t *testing.T) {
	t.Parallel()
	word := func(key, s string) *PolicySet {
		return &PolicySet{Key: key, Value: PolicyValue{kind: policyStr, Str: s}}
	}
	rack := func(name string, slots ...string) (out []fleetHost) {
		for _, s := range slots {
			out = append(out, fleetHost{rack: name, class: "a", slots: s})
		}
		return out
	}
	for name, tt := range map[string]struct {
		fleet    []fleetHost
		shape    uint32
		count    uint32
		policies []*PolicySet
		want     []string // of each host, a part of its reason; one that begins with a digit has so many VMs
	}{
		"out of service": {
			[]fleetHost{
				{class: "b", slots: "0"},
				{class: "a", slots: "0", off: "no map"},
				{class: "a", slots: "0", off: "cordoned"},
				{class: "a", slots: "0", off: "draining"},
				{class: "a", slots: "0", off: "faulted"},
				{class: "a", slots: "0", off: "silent"},
				{class: "a", slots: "x"},
				{class: "a", slots: "0"},
			},
			1, 0, nil,
			[]string{"another GPU class: b", "no approved slot map", "cordoned", "draining", "faulted", "silent", "too few free slots", "1 chosen"},
		},
		"one":              {rack("", "0000", "00", "01", "00"), 2, 1, nil, []string{"packing took a fuller host, with 2", "1 chosen", "from one NUMA node", "enrolled first"}},
		"one, spread":      {rack("", "00", "000"), 1, 1, []*PolicySet{word("placement.strategy", "spread")}, []string{"spreading took an emptier host, with 3", "1 chosen"}},
		"a gang":           {append(rack("r", "00", "000", "0"), rack("s", "0")...), 1, 3, nil, []string{"2 chosen", "fuller hosts of its rack", "1 chosen", "its rack has room for 1 of 3 VMs"}},
		"a gang elsewhere": {append(rack("r", "0000"), rack("s", "000")...), 1, 3, nil, []string{"another rack was taken", "3 chosen"}},
		"a gang over racks": {
			append(append(rack("r", "00"), rack("s", "000")...), rack("t", "0")...), 1, 5, nil,
			[]string{"2 chosen", "3 chosen", "its rack has room for 1 of 5 VMs: other racks were enough"},
		},
		"anti-affinity":      {append(rack("r", "00", "00"), rack("s", "0")...), 1, 2, []*PolicySet{word("placement.anti_affinity", "rack")}, []string{"1 chosen", "anti-affinity", "1 chosen"}},
		"no room for all":    {append(rack("r", "00"), rack("s", "x")...), 1, 3, nil, []string{"no room for all 3 VMs", "too few free slots"}},
		"apart, no room":     {rack("r", "00", "00"), 1, 3, []*PolicySet{word("placement.anti_affinity", "host")}, []string{"no room for all 3", "no room for all 3"}},
		"a gang, spread out": {rack("r", "00", "000", "00"), 1, 2, []*PolicySet{word("placement.strategy", "spread")}, []string{"1 chosen", "1 chosen", "emptier hosts of its rack"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := fleetWorld(tt.fleet...)
			(&SKUCreated{ID: SKUID{1}, Name: "s", Shape: tt.shape, GPUClass: "a"}).apply(w, &Applied{})
			for _, p := range tt.policies {
				p.apply(w, &Applied{})
			}
			reasons, err := w.ExplainPlacement(PlacementAsk{SKUName: "s", Count: tt.count}, 100)
			if err != nil || len(reasons) != len(tt.want) {
				t.Fatalf("%v, %v", reasons, err)
			}
			for i, r := range reasons {
				vms, part := 0, tt.want[i]
				if part[0] >= '0' && part[0] <= '9' {
					vms, part = int(part[0]-'0'), part[2:]
				}
				if r.VMs != vms || !strings.Contains(r.Reason, part) {
					t.Errorf("host %d: %d VMs, %q; want %q", i, r.VMs, r.Reason, tt.want[i])
				}
			}
			if some, _ := w.ExplainPlacement(PlacementAsk{SKUName: "s"}, 1); len(some) != 1 {
				t.Errorf("%d hosts, the limit is 1", len(some))
			}
		})
	}
	w := fleetWorld()
	(&SKUCreated{ID: SKUID{1}, Name: "s", Shape: 1}).apply(w, &Applied{})
	for _, ask := range []PlacementAsk{{SKUName: "t"}, {SKUName: "s", Count: maxGangVMs + 1}, {SKUName: "s", Project: ProjectID{1}}} {
		if _, err := w.ExplainPlacement(ask, 1); err == nil {
			t.Errorf("%+v is explained", ask)
		}
	}
}
