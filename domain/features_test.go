package domain

import (
	"encoding/json"
	"testing"
)

// offering makes a host whose map offers the features.
func (s *site) offering(name string, slots int, f Features) *fakeHost {
	s.t.Helper()
	m := testMap(name, slots)
	m.Features = f
	return s.hostOf(name, m, "r1")
}

// offer has the host propose its map anew, with other features, and approves it.
func (h *fakeHost) offer(f Features) {
	h.s.t.Helper()
	m := h.clone()
	m.Features = f
	h.s.must(h.s.admin, h.propose(m))
}

func TestFeaturesDecideWhereVMsGo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	secure := s.offering("secure", 2, SecureBoot|VTPM)
	plain := s.offering("plain", 2, 0)
	f := s.tenant("acme", 1e9)
	s.sku("gpu-1x", 1, 1)
	sku := s.must(s.admin, &CreateSKU{Name: "trusted-1x", Shape: 1, Features: SecureBoot | VTPM})[0].(*SKUCreated)
	s.must(s.admin, &PublishPrice{SKU: sku.ID, Currency: "USD", Micros: 1})
	launch := func(sku, image string) *CreateAllocation {
		return &CreateAllocation{Project: f.project, SKUName: sku, Count: 1, Image: image}
	}
	host := func(e []EventBody) HostID { return e[0].(*AllocationPlaced).VMs[0].Host }

	// Plain VMs leave the better hosts to those who need them.
	if got := host(s.must(f.key, launch("gpu-1x", ""))); got != plain.id {
		t.Errorf("a plain VM went to %s", got)
	}
	placed := s.must(f.key, launch("trusted-1x", ""))
	if got := host(placed); got != secure.id || placed[0].(*AllocationPlaced).Features != SecureBoot|VTPM {
		t.Errorf("placed as %+v", placed[0])
	}
	if vms := secure.placement().Desired.VMs; len(vms) != 1 || vms[0].Features != SecureBoot|VTPM {
		t.Errorf("the host is told %+v", vms)
	}

	// What is offered counts only the hosts that can.
	for _, o := range must(s.w.Offers(f.id, ProjectID{}, s.now)) {
		if want := map[string]uint32{"gpu-1x": 2, "trusted-1x": 1}[o.Name]; o.Quantity != want {
			t.Errorf("%s: %d on offer, want %d", o.Name, o.Quantity, want)
		}
	}
	s.must(f.key, launch("trusted-1x", ""))
	s.refused(f.key, launch("trusted-1x", ""), "capacity.exhausted")

	// A host whose map is amended enters another class, and leaves it again.
	plain.offer(SecureBoot | VTPM)
	e := s.must(f.key, launch("trusted-1x", ""))
	if host(e) != plain.id {
		t.Errorf("placed as %+v", e[0])
	}
	plain.offer(VTPM)
	s.must(f.key, &ActOnAllocation{Allocation: e[0].(*AllocationPlaced).ID, Action: ActionRelease})
	plain.report(Report{Kind: ReportRemoved, VM: &VMReport{VM: e[0].(*AllocationPlaced).VMs[0].VM, Boot: 1, At: s.now}})
	plain.wipe()
	s.refused(f.key, launch("trusted-1x", ""), "capacity.exhausted")
	s.must(f.key, launch("gpu-1x", ""))
}

func must[T any](v T, err *Error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestImagesAndFeatures(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.offering("h1", 8, SecureBoot|VTPM)
	f := s.tenant("acme", 1e9)
	s.sku("gpu-1x", 1, 1)
	for name, features := range map[string]Features{"secure-1x": SecureBoot, "snp-1x": SEVSNP} {
		e := s.must(s.admin, &CreateSKU{Name: name, Shape: 1, Features: features})[0].(*SKUCreated)
		s.must(s.admin, &PublishPrice{SKU: e.ID, Currency: "USD", Micros: 1})
	}
	register := func(name string, signed bool, needs Features) *RegisterImage {
		i := image(name, "1", ProjectID{}, byte(len(name)))
		i.SecureBoot, i.Needs = signed, needs
		return &RegisterImage{i}
	}
	for _, m := range []*RegisterImage{
		register("tiny", false, 0), register("signed", true, 0), register("sealed", true, SecureBoot|VTPM), register("tdx", false, TDX),
	} {
		s.must(s.admin, m)
	}
	s.refused(s.admin, register("no", false, SecureBoot), "image.not_signed")
	s.refused(s.admin, register("no", false, SEVSNP|TDX), "features.exclusive")
	s.refused(s.admin, register("no", false, 1<<7), "features.unknown")
	s.refused(s.admin, &CreateSKU{Name: "both", Shape: 1, Features: SEVSNP | TDX}, "features.exclusive")
	s.refused(s.admin, &CreateSKU{Name: "odd", Shape: 1, Features: 1 << 6}, "features.unknown")

	launch := func(sku, image string) *CreateAllocation {
		return &CreateAllocation{Project: f.project, SKUName: sku, Count: 1, Image: image}
	}
	s.refused(f.key, launch("secure-1x", "tiny"), "image.not_signed")
	s.refused(f.key, launch("snp-1x", "tdx"), "features.exclusive")
	s.refused(f.key, launch("gpu-1x", "tdx"), "capacity.exhausted")
	for _, c := range []struct {
		sku, image string
		want       Features
	}{{"secure-1x", "signed", SecureBoot}, {"gpu-1x", "signed", 0}, {"gpu-1x", "sealed", SecureBoot | VTPM}, {"secure-1x", "sealed", SecureBoot | VTPM}} {
		if got := s.must(f.key, launch(c.sku, c.image))[0].(*AllocationPlaced).Features; got != c.want {
			t.Errorf("%s of %s has %v, want %v", c.image, c.sku, got.Names(), c.want.Names())
		}
	}
	// What an allocation has, it keeps: a snapshot does too.
	if again, err := DecodeWorld(s.w.Encode()); err != nil || again.Hash() != s.w.Hash() {
		t.Errorf("another world after a snapshot: %v", err)
	}
}

func TestFeatureNames(t *testing.T) {
	t.Parallel()
	for f := range Features(1 << len(featureNames)) {
		b, err := json.Marshal(f)
		var got Features
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		if err != nil || got != f {
			t.Errorf("%s: %v, %v", b, got, err)
		}
	}
	var f Features
	if err := json.Unmarshal([]byte(`["secureboot"]`), &f); err == nil {
		t.Error("an unknown feature is taken")
	}
}
