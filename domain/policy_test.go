package domain

import (
	"encoding/json"
	"slices"
	"testing"
)

func limit(n int64) PolicyValue         { return PolicyValue{kind: policyInt, Int: n} }
func word(s string) PolicyValue         { return PolicyValue{kind: policyStr, Str: s} }
func images(s ...string) PolicyValue    { return PolicyValue{kind: policyList, List: s} }
func (f tenantFixture) in() PolicyScope { return PolicyScope{Tenant: f.id} }

// TestPolicyChain: of a default the most specific value wins, of a guardrail the
// strictest; each says which scope and which event decided, and whom it overruled.
func TestPolicyChain(t *testing.T) {
	t.Parallel()
	type at struct {
		global, tenant, project *PolicyValue
	}
	v := func(v PolicyValue) *PolicyValue { return &v }
	for name, tt := range map[string]struct {
		key       string
		set       at
		want      string // JSON
		scope     string // "" if nothing is set
		overruled []string
	}{
		"nothing":                       {key: "quota.gpus"},
		"a default of the site":         {"allocation.default_image", at{global: v(word("a"))}, `"a"`, "global", nil},
		"a default of the tenant":       {"allocation.default_image", at{global: v(word("a")), tenant: v(word("b"))}, `"b"`, "tenant", []string{"global"}},
		"a default of the project":      {"allocation.default_image", at{v(word("a")), v(word("b")), v(word("c"))}, `"c"`, "project", []string{"global", "tenant"}},
		"a default of project and site": {"allocation.default_image", at{global: v(word("a")), project: v(word("c"))}, `"c"`, "project", []string{"global"}},
		"a number by default":           {"billing.grace_seconds", at{global: v(limit(1)), tenant: v(limit(9))}, `9`, "tenant", []string{"global"}},
		"a guardrail alone":             {"quota.gpus", at{project: v(limit(3))}, `3`, "project", nil},
		"tightened":                     {"quota.gpus", at{v(limit(9)), v(limit(5)), v(limit(3))}, `3`, "project", []string{"global", "tenant"}},
		"not loosened":                  {"quota.gpus", at{v(limit(5)), v(limit(9)), v(limit(7))}, `5`, "global", []string{"tenant", "project"}},
		"the middle decides":            {"quota.gpus", at{v(limit(9)), v(limit(2)), v(limit(5))}, `2`, "tenant", []string{"global", "project"}},
		"as strict is not stricter":     {"quota.gpus", at{global: v(limit(5)), tenant: v(limit(5))}, `5`, "global", []string{"tenant"}},
		"fewer images":                  {"allocation.images", at{global: v(images("a", "b")), tenant: v(images("b", "c"))}, `["b"]`, "tenant", []string{"global"}},
		"no more images":                {"allocation.images", at{global: v(images("a")), tenant: v(images("b", "a"))}, `["a"]`, "global", []string{"tenant"}},
		"no common image":               {"allocation.images", at{global: v(images("a")), tenant: v(images("b"))}, `[]`, "tenant", []string{"global"}},
		"no image at all":               {"allocation.images", at{global: v(images())}, `[]`, "global", nil},
		"one version of an image":       {"allocation.images", at{global: v(images("a", "b")), tenant: v(images("a:1"))}, `["a:1"]`, "tenant", []string{"global"}},
		"a version stays":               {"allocation.images", at{global: v(images("a:1")), tenant: v(images("a"))}, `["a:1"]`, "global", []string{"tenant"}},
		"a version and an image":        {"allocation.images", at{global: v(images("a:1", "b")), tenant: v(images("a", "b:2", "c"))}, `["b:2","a:1"]`, "tenant", []string{"global"}},
		"a name is not a prefix":        {"allocation.images", at{global: v(images("a")), tenant: v(images("ab"))}, `[]`, "tenant", []string{"global"}},
		"version by version":            {"allocation.images", at{v(images("a")), v(images("a:1", "a:2")), v(images("a:2", "a:3"))}, `["a:2"]`, "project", []string{"global", "tenant"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			f := s.tenant("acme", 0)
			events := map[string]uint64{}
			for _, p := range []struct {
				name  string
				scope PolicyScope
				value *PolicyValue
			}{{"project", PolicyScope{Project: f.project}, tt.set.project}, {"tenant", f.in(), tt.set.tenant}, {"global", PolicyScope{}, tt.set.global}} {
				if p.value == nil {
					continue
				}
				s.must(s.admin, &SetPolicy{Scope: p.scope, Key: tt.key, Value: *p.value})
				events[p.name] = s.w.Number
				if again := s.must(s.admin, &SetPolicy{Scope: p.scope, Key: tt.key, Value: *p.value}); len(again) != 0 {
					t.Errorf("a repeat gave %v", again)
				}
			}
			eff, ok := s.w.EffectivePolicy(tt.key, f.id, f.project)
			if !ok {
				if tt.scope != "" {
					t.Fatal("nothing is set")
				}
				return
			}
			got, _ := json.Marshal(eff.Value)
			if string(got) != tt.want || eff.Scope != tt.scope || eff.Event != events[tt.scope] || !slices.Equal(eff.Overruled, tt.overruled) {
				t.Errorf("%s by %s (event %d), overruled %v; want %s by %s (event %d), overruled %v", got, eff.Scope, eff.Event, eff.Overruled, tt.want, tt.scope, events[tt.scope], tt.overruled)
			}
			if id := map[string]string{"global": "", "tenant": f.id.String(), "project": f.project.String()}[eff.Scope]; eff.ScopeID != id {
				t.Errorf("decided by %q, want %q", eff.ScopeID, id)
			}
			if all := s.w.EffectivePolicies(f.project); len(all) != 1 || all[0].Event != eff.Event {
				t.Errorf("listed as %+v", all)
			}
			for _, scope := range []PolicyScope{{}, f.in(), {Project: f.project}} {
				s.must(s.admin, &SetPolicy{Scope: scope, Key: tt.key, Remove: true})
			}
			if _, ok := s.w.EffectivePolicy(tt.key, f.id, f.project); ok {
				t.Error("removed, and still in force")
			}
		})
	}
}

// At level 1 a version below an image's name allowed nothing: history decides so.
func TestImagePolicyOfLevel1(t *testing.T) {
	t.Parallel()
	w := NewWorld()
	w.LogicLevel = 1
	if v, changed := w.tighten(images("tiny"), images("tiny:1")); len(v.List) != 0 || !changed {
		t.Errorf("%v, %v", v, changed)
	}
}

func TestPoliciesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for code, m := range map[string]*SetPolicy{
		"policy.unknown":       {Key: "quota.cpus", Value: limit(1)},
		"policy.wrong_type":    {Key: "quota.gpus", Value: word("1")},
		"policy.negative":      {Key: "quota.gpus", Value: limit(-1)},
		"policy.unknown_value": {Key: "placement.strategy", Value: word("random")},
		"policy.too_long":      {Key: "allocation.images", Value: images(make([]string, 101)...)},
		"word.invalid":         {Key: "allocation.default_image", Value: word("two words")},
		"tenant.not_found":     {Scope: PolicyScope{Tenant: TenantID{4}}, Key: "quota.gpus", Value: limit(1)},
		"project.not_found":    {Scope: PolicyScope{Project: ProjectID{4}}, Key: "quota.gpus", Value: limit(1)},
	} {
		s.refused(s.admin, m, code)
	}
}

// TestLaunchUnderPolicies: what a policy does to a launch, and what offers say of it:
// a quantity above 0 can be launched, a 0 has the code that a launch is refused with.
func TestLaunchUnderPolicies(t *testing.T) {
	t.Parallel()
	hour := int64(3600)
	for name, tt := range map[string]struct {
		scope    string
		key      string
		value    PolicyValue
		launch   CreateAllocation
		refused  string
		quantity uint32 // offered, 0 with the code of the refusal
	}{
		"none":                        {quantity: 6},
		"gpus of the tenant":          {scope: "tenant", key: "quota.gpus", value: limit(3), launch: CreateAllocation{Count: 2}, refused: "quota.exceeded", quantity: 1},
		"gpus of the project":         {scope: "project", key: "quota.gpus", value: limit(2), launch: CreateAllocation{Count: 1}, refused: "quota.exceeded"},
		"gpus of every tenant":        {scope: "global", key: "quota.gpus", value: limit(4), launch: CreateAllocation{Count: 2}, quantity: 2},
		"gpus are used up twice over": {scope: "tenant", key: "quota.gpus", value: limit(1), launch: CreateAllocation{Count: 1}, refused: "quota.exceeded"},
		"allocations of the tenant":   {scope: "tenant", key: "quota.allocations", value: limit(1), launch: CreateAllocation{Count: 1}, refused: "quota.exceeded"},
		"allocations of the project":  {scope: "project", key: "quota.allocations", value: limit(1), launch: CreateAllocation{Count: 1}, refused: "quota.exceeded"},
		"one more allocation":         {scope: "tenant", key: "quota.allocations", value: limit(2), launch: CreateAllocation{Count: 6}, quantity: 6},
		"a large quota":               {scope: "tenant", key: "quota.allocations", value: limit(1 << 62), launch: CreateAllocation{Count: 6}, quantity: 6},
		"count":                       {scope: "tenant", key: "allocation.max_count", value: limit(2), launch: CreateAllocation{Count: 3}, refused: "policy.max_count", quantity: 6},
		"count within":                {scope: "tenant", key: "allocation.max_count", value: limit(2), launch: CreateAllocation{Count: 2}, quantity: 6},
		"no count":                    {scope: "project", key: "allocation.max_count", value: limit(0), launch: CreateAllocation{Count: 1}, refused: "policy.max_count"},
		"lifetime":                    {scope: "tenant", key: "allocation.max_lifetime_seconds", value: limit(hour), launch: CreateAllocation{Count: 1, Expires: t0.Add(Hour + 1)}, refused: "policy.max_lifetime", quantity: 6},
		"lifetime within":             {scope: "tenant", key: "allocation.max_lifetime_seconds", value: limit(hour), launch: CreateAllocation{Count: 1, Expires: t0.Add(Hour)}, quantity: 6},
		"image":                       {scope: "tenant", key: "allocation.images", value: images("tiny"), launch: CreateAllocation{Count: 1, Image: "large"}, refused: "policy.image", quantity: 6},
		"image by name":               {scope: "tenant", key: "allocation.images", value: images("tiny"), launch: CreateAllocation{Count: 1, Image: "tiny:7"}, quantity: 6},
		"image by default":            {scope: "tenant", key: "allocation.images", value: images("tiny"), launch: CreateAllocation{Count: 1}, quantity: 6},
		"another image by default":    {scope: "tenant", key: "allocation.images", value: images("large"), launch: CreateAllocation{Count: 1}, refused: "policy.image", quantity: 6},
		"no image":                    {scope: "global", key: "allocation.images", value: images(), launch: CreateAllocation{Count: 1}, refused: "policy.image"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.host("h1", 8, "r1")
			s.sku("gpu-1x", 1, 1)
			f := s.tenant("acme", 1e9)
			s.launch(f, "a", "gpu-1x", 2) // 2 of 8 GPUs, 1 allocation
			if tt.key != "" {
				scope := map[string]PolicyScope{"tenant": f.in(), "project": {Project: f.project}}[tt.scope]
				s.must(s.admin, &SetPolicy{Scope: scope, Key: tt.key, Value: tt.value})
			}
			offers, err := s.w.Offers(f.id, f.project, s.now)
			if err != nil || len(offers) != 1 {
				t.Fatalf("%v, %v", offers, err)
			}
			why := ""
			if tt.quantity == 0 {
				why = tt.refused
			}
			if o := offers[0]; o.Quantity != tt.quantity || o.WhyZero != why {
				t.Errorf("offered %d (%s), want %d (%s)", o.Quantity, o.WhyZero, tt.quantity, why)
			}
			m := tt.launch
			m.Project, m.SKUName = f.project, "gpu-1x"
			if m.Count == 0 {
				return
			}
			if tt.refused != "" {
				s.refused(f.key, &m, tt.refused)
				return
			}
			e := s.must(f.key, &m)[0].(*AllocationPlaced)
			if len(e.VMs) != int(m.Count) || tt.key == "allocation.max_lifetime_seconds" && e.Expires != t0.Add(Hour) {
				t.Errorf("%d VMs until %s", len(e.VMs), e.Expires)
			}
		})
	}
}

// A lifetime's policy is also the expiry of what asks for none, and the default image
// of the most specific scope is launched.
func TestPoliciesThatFillIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.host("h1", 8, "r1")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 1e9)
	for _, m := range []*SetPolicy{
		{Key: "allocation.max_lifetime_seconds", Value: limit(60)},
		{Key: "allocation.default_image", Value: word("site")},
		{Scope: PolicyScope{Project: f.project}, Key: "allocation.default_image", Value: word("mine")},
	} {
		s.must(s.admin, m)
	}
	e := s.must(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1})[0].(*AllocationPlaced)
	if e.Expires != s.now.Add(Minute) || e.Image != "mine" {
		t.Errorf("%s until %s", e.Image, e.Expires)
	}
	s.after(2 * Minute)
	if st, _ := s.w.AllocationState(e.ID); st < Releasing {
		t.Errorf("it is %s after its time", st)
	}
	s.replays()
}
