package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/client"
	"github.com/gpuaas/gpuaas/domain"
)

// The ids of the fake site's only ...
const (
	tenantKey = "gpk_06g3n4k8w2v5r9t1y7m0q4x8zc_tenant"
	adminKey  = "gpk_06g3n4k8w2v5r9t1y7m0q4x8zc_admin"
	tail      = "_06g3n4k8w2v5r9t1y7m0q4x8zc"
	then      = "2026-01-31T12:00:00.5Z"
)

// fakeSite answers in the shapes of the api package. Each look at an allocation
// brings it one step on.
type fakeSite struct {
	mu       sync.Mutex
	allocs   []*api.Allocation
	projects []api.Project
	steps    map[string][]string
	n        uint64
	keys     map[string]bool // Idempotency-Keys
	images   fakeImages
}

func newFakeSite() http.Handler {
	s := &fakeSite{
		projects: []api.Project{{ID: "prj" + tail, Name: "research", State: "active", TenantID: "ten" + tail, CreatedAt: then}},
		steps:    map[string][]string{}, n: 100, keys: map[string]bool{},
	}
	m := http.NewServeMux()
	for pattern, h := range map[string]func(r *http.Request, body map[string]any) (int, any){
		"GET /v1/whoami":                          s.whoami,
		"GET /v1/offers":                          s.offers,
		"GET /v1/tenants":                         s.tenants,
		"GET /v1/tenants/{t}/projects":            s.listProjects,
		"POST /v1/tenants/{t}/projects":           s.createProject,
		"POST /v1/projects/{p}/allocations":       s.launch,
		"GET /v1/projects/{p}/allocations":        s.list,
		"GET /v1/allocations/{a}":                 s.get,
		"POST /v1/allocations/{a}/stop":           s.act("stopping", "stopped"),
		"DELETE /v1/allocations/{a}":              s.act("releasing", "released"),
		"GET /v1/allocations/{a}/erasure":         s.erasure,
		"GET /v1/allocations/{a}/console":         s.console,
		"GET /v1/allocations/{a}/events":          s.events,
		"GET /v1/events":                          s.events,
		"GET /v1/tenants/{t}/balance":             s.balance,
		"GET /v1/tenants/{t}/ledger":              s.ledger,
		"GET /v1/tenants/{t}/usage":               s.usage,
		"POST /v1/tenants/{t}/credits":            s.credit,
		"POST /v1/tenants/{t}/api-keys":           s.key,
		"POST /v1/tenants/{t}/members":            s.member,
		"PUT /v1/policies/tenants/{t}/{key}":      s.policy,
		"GET /v1/projects/{p}/policies/effective": s.effective,
		"GET /v1/hosts":                           s.hosts,
		"POST /v1/hosts":                          s.addHost,
		"GET /v1/hosts/{h}/slot-map":              s.slotMap,
		"POST /v1/hosts/{h}/slot-map/approve":     s.approve,
		"POST /v1/hosts/{h}/cordon":               s.cordon,
		"GET /v1/slots":                           s.slots,
		"POST /v1/slots/{s}/quarantine":           s.quarantine,
		"GET /v1/slots/{s}/leases":                s.slotLeases,
		"GET /v1/devices/{serial}":                s.device,
		"POST /v1/skus/{s}/prices":                s.price,
		"GET /v1/skus":                            s.skus,
		"GET /v1/audit":                           s.audit,
		"POST /v1/projects/{p}/images/uploads":    s.beginUpload,
		"GET /v1/uploads/{b}":                     s.getUpload,
		"POST /v1/projects/{p}/images":            s.registerImage,
		"GET /v1/projects/{p}/images":             s.listImages,
		"GET /v1/images":                          s.listImages,
		"DELETE /v1/images/{i}":                   s.retireImage,
	} {
		m.HandleFunc(pattern, s.answer(h))
	}
	m.HandleFunc("PATCH /v1/uploads/{b}", s.appendUpload)
	m.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		write(w, problem(404, "route.not_found", "no such route: see /docs"))
	})
	return m
}

func problem(status int, code, detail string) *api.Problem {
	return &api.Problem{
		Type: "urn:gpuaas:problem:" + code, Title: http.StatusText(status), Status: status, Code: code, Detail: detail, RequestID: "req_7",
		Retryable: status == 503 || code == "capacity.exhausted",
	}
}

func write(w http.ResponseWriter, p *api.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// stream sends the two events that follow the cursor c2, one a connection.
func (s *fakeSite) stream(w http.ResponseWriter, r *http.Request) {
	n := map[string]string{"c2": "c3", "c3": "c4"}[r.Header.Get("Last-Event-ID")]
	w.Header().Set("Content-Type", "text/event-stream")
	e, _ := json.Marshal(api.Event{SpecVersion: "1.0", ID: n, Source: "/sites/auh1", Type: "allocation.vm_running", Subject: "alloc" + tail, Time: then, Sequence: 102, Data: json.RawMessage("{}")})
	fmt.Fprintf(w, "retry: 1\n\nid: %s\nevent: allocation.vm_running\ndata: %s\n\n", n, e)
}

func (s *fakeSite) answer(h func(*http.Request, map[string]any) (int, any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "text/event-stream" {
			s.stream(w, r)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); key != tenantKey && key != adminKey {
			write(w, problem(401, "auth.invalid_key", "the API key is missing, unknown, expired or revoked"))
			return
		}
		var body map[string]any
		if r.Method != "GET" {
			_ = json.NewDecoder(r.Body).Decode(&body)
			if k := r.Header.Get("Idempotency-Key"); k == "" || s.keys[k] {
				write(w, problem(422, "idempotency.key_invalid", "every command of gpuctl has a key of its own"))
				return
			}
		}
		status, v := h(r, body)
		if p, ok := v.(*api.Problem); ok {
			write(w, p)
			return
		}
		if r.Method != "GET" {
			s.keys[r.Header.Get("Idempotency-Key")] = true
			s.n++
		}
		w.Header().Set("Log-Sequence", fmt.Sprint(s.n))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
}

func admin(r *http.Request) bool { return strings.HasSuffix(r.Header.Get("Authorization"), adminKey) }

func (s *fakeSite) whoami(r *http.Request, _ map[string]any) (int, any) {
	if admin(r) {
		return 200, api.WhoAmI{UserID: "usr" + tail, KeyID: "key" + tail, Roles: []string{"operator"}, Site: "auh1"}
	}
	return 200, api.WhoAmI{UserID: "usr" + tail, KeyID: "key" + tail, TenantID: "ten" + tail, TenantRole: "owner", Roles: []string{}, Site: "auh1"}
}

func (s *fakeSite) offers(*http.Request, map[string]any) (int, any) {
	return 200, api.Offers{Items: []api.Offer{
		{SKUID: "sku" + tail, SKU: "gpu-1x", Shape: 1, GPUClass: "h100-sxm5-80gb", Currency: "USD", Micros: 2_490_000, Quantity: 16},
		{SKUID: "sku" + tail, SKU: "gpu-8x", Shape: 8, Currency: "USD", Micros: 2_000_001, WhyZero: "quota.exceeded"},
	}}
}

func (s *fakeSite) tenants(*http.Request, map[string]any) (int, any) {
	return 200, api.List[api.Tenant]{Items: []api.Tenant{{ID: "ten" + tail, Name: "acme", State: "active", Currency: "USD", CreditLine: 50_000_000, CreatedAt: then}}}
}

func (s *fakeSite) listProjects(*http.Request, map[string]any) (int, any) {
	return 200, api.List[api.Project]{Items: s.projects}
}

func (s *fakeSite) createProject(_ *http.Request, b map[string]any) (int, any) {
	for _, p := range s.projects {
		if p.Name == b["name"] {
			return 0, problem(409, "project.name_taken", "the tenant has a project of this name")
		}
	}
	s.projects = append(s.projects, api.Project{ID: "prj_06g3n4k8w2v5r9t1y7m0q4x8z2", Name: fmt.Sprint(b["name"]), State: "active", TenantID: "ten" + tail, CreatedAt: then})
	return 201, s.projects[len(s.projects)-1]
}

func (s *fakeSite) launch(r *http.Request, b map[string]any) (int, any) {
	if r.PathValue("p") != "prj"+tail {
		return 0, problem(404, "project.not_found", "no such project")
	}
	switch b["sku"] {
	case "gpu-8x":
		return 0, problem(409, "capacity.exhausted", "no room for 1 x gpu-8x now: see GET /v1/offers")
	case "gpu-4x":
		return 0, problem(402, "funds.insufficient", "a launch puts one hour's price aside")
	case "gpu-2x":
		return 0, problem(503, "queue.full", "the site is busy: try again in a second")
	case "gpu-1x":
	default:
		p := problem(422, "request.invalid", "the request does not fit its schema: see errors")
		p.Errors = []api.ProblemField{{Field: "body.sku", Message: "no such sku"}}
		return 0, p
	}
	a := &api.Allocation{
		ID: fmt.Sprintf("alloc_06g3n4k8w2v5r9t1y7m0q4x8z%d", len(s.allocs)), Name: fmt.Sprint(b["name"]), State: "provisioning", TenantID: "ten" + tail, ProjectID: "prj" + tail,
		SKU: "gpu-1x", SKUID: "sku" + tail, Shape: 1, Count: 1, Image: "tiny", RequestedBy: "usr" + tail, HoldMicros: 2_490_000, CreatedAt: then,
		VMs: []api.VM{{ID: "vm" + tail, State: "provisioning", HostID: "host" + tail, SlotIDs: []string{"slot" + tail}}},
	}
	if n, ok := b["count"].(float64); ok {
		a.Count = uint32(n)
	}
	if b["dry_run"] == true {
		a.ID, a.State, a.DryRun = "", "planned", true
		return 200, a
	}
	s.steps[a.ID] = []string{"provisioning", "running"}
	if a.Name == "broken" {
		a.Reason, s.steps[a.ID] = "image-broken", []string{"failed"}
	}
	if a.Name == "slow" {
		s.steps[a.ID] = nil
	}
	s.allocs = append(s.allocs, a)
	return 201, a
}

func (s *fakeSite) list(r *http.Request, _ map[string]any) (int, any) {
	l := api.List[*api.Allocation]{Items: []*api.Allocation{}}
	q := r.URL.Query()
	for _, a := range s.allocs {
		if (q.Get("name") == "" || q.Get("name") == a.Name) && (q.Get("live") == "" || a.State != "released") {
			l.Items = append(l.Items, a)
		}
	}
	return 200, l
}

func (s *fakeSite) find(r *http.Request) *api.Allocation {
	for _, a := range s.allocs {
		if a.ID == r.PathValue("a") {
			return a
		}
	}
	return nil
}

func (s *fakeSite) get(r *http.Request, _ map[string]any) (int, any) {
	a := s.find(r)
	if a == nil {
		return 0, problem(404, "allocation.not_found", "no such allocation")
	}
	if next := s.steps[a.ID]; len(next) > 0 {
		a.State, s.steps[a.ID] = next[0], next[1:]
		a.VMs[0].State = a.State
	}
	switch a.State {
	case "running":
		a.VMs[0].Address = "10.64.0.7"
	case "released":
		a.ReleasedAt, a.VMs[0].Address = then, ""
	}
	return 200, a
}

func (s *fakeSite) act(state, end string) func(*http.Request, map[string]any) (int, any) {
	return func(r *http.Request, _ map[string]any) (int, any) {
		a := s.find(r)
		switch {
		case a == nil:
			return 0, problem(404, "allocation.not_found", "no such allocation")
		case a.State == "released":
			return 0, problem(409, "allocation.wrong_state", "the allocation is released")
		}
		a.State, s.steps[a.ID] = state, []string{state, end}
		return 202, api.Changed{ID: a.ID, State: state}
	}
}

func (s *fakeSite) erasure(r *http.Request, _ map[string]any) (int, any) {
	return 200, api.Erasure{AllocationID: r.PathValue("a"), Erased: true, Items: []api.Lease{wipedLease(r)}}
}

func (s *fakeSite) slotLeases(r *http.Request, _ map[string]any) (int, any) {
	failed := wipedLease(r)
	failed.Generation, failed.Result, failed.WipedAt = 4, "quarantined", ""
	failed.Evidence = json.RawMessage(`{"result":"quarantined","component":"nvme","reason":"wipe.canary_survived","devices":[
		{"component":"nvme","serial":"N1","method":"format-ses1","result":"failed","reason":"wipe.canary_survived","scope":"device","detail":"read error\u001b[2J","canaries_planted":18,"canaries_gone":17,"firmware":"1.1","approved_firmware":"1.0"}]}`)
	if failed.Report != nil {
		failed.Report.Bytes = []byte("another report")
	}
	return 200, api.List[api.Lease]{Items: []api.Lease{{SlotID: "slot" + tail, Generation: 5, HostID: "host" + tail, StartedAt: then}, failed, wipedLease(r)}}
}

// wipedLease is a lease with all the evidence there can be.
func wipedLease(r *http.Request) api.Lease {
	l := api.Lease{
		SlotID: "slot" + tail, Generation: 3, HostID: "host" + tail, VMID: "vm" + tail, StartedAt: then, EndedAt: then, Result: "verified", WipedAt: then,
		Evidence: json.RawMessage(`{"result":"verified","nonce":"sha256:07","started_at":"` + then + `","ended_at":"` + then + `","sequence":112,"position":1,"devices":[
			{"component":"nvme","serial":"N1","method":"sanitize-crypto","result":"verified","bytes_read":1000204886016,"size_bytes":1000204886016,"coverage":"all","canaries_planted":18,"canaries_gone":18,
			 "firmware":"1.0","approved_firmware":"1.0","baseline_digest":"sha256:0b","log":["sanitize: 42%","sanitize: completed"],"started_at":"` + then + `","ended_at":"` + then + `"},
			{"component":"gpu","serial":"G1","method":"flr","result":"verified","bytes_read":0,"detail":"memory not probed"}]}`),
	}
	if r.URL.Query().Get("reports") == "true" {
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		l.Report = &api.SignedReport{Bytes: []byte("report"), Signature: ed25519.Sign(key, []byte("report")), PublicKey: key.Public().(ed25519.PublicKey)}
	}
	return l
}

// badSerial is one that has to be encoded well.
const badSerial = "S6 Z/AN%2F?\x1b[2J"

// device is a drive that failed its wipe and was replaced; its leases come in two pages.
func (s *fakeSite) device(r *http.Request, _ map[string]any) (int, any) {
	if !admin(r) {
		return 0, problem(403, "auth.platform_only", "this needs a platform role")
	}
	if r.PathValue("serial") != badSerial {
		return 0, problem(404, "device.not_found", "no such device")
	}
	one, other := uint64(1), "slot_06g3n4k8w2v5r9t1y7m0q4x8z2"
	drive := func(result, reason string) json.RawMessage {
		b, _ := json.Marshal(client.DeviceErasure{Component: "nvme", Serial: badSerial, Method: "sanitize-crypto", Result: result, Reason: reason})
		return b
	}
	h := api.DeviceHistory{
		Serial:  badSerial,
		Devices: []api.KnownDevice{{ID: badSerial, Name: "nvme/" + badSerial, State: "in_slot", Component: "nvme", Model: "P5800", SerialFrom: "device"}},
		Places: []api.DevicePlace{
			{Component: "nvme", Serial: badSerial, SlotID: "slot" + tail, Slot: "r1-h01/0", HostID: "host" + tail, Host: "r1-h01", Last: &one, Since: then, Until: then, Cause: "replaced", ReplacedBy: "N9"},
			{Component: "nvme", Serial: badSerial, SlotID: other, Slot: "r1-h02/1", HostID: "host" + tail, Host: "r1-h02", Generation: 4, Since: then, Replaced: "N7"},
		},
		Duties: []api.WipeDuty{{ID: "duty" + tail, State: "discharged", Component: "nvme", Serial: badSerial, SlotID: "slot" + tail, Generation: 1, Cause: "replaced", Since: then, FoundSlotID: other, ChangedAt: then}},
		Items: []*api.DeviceLease{
			{
				Component: "nvme", Serial: badSerial, SlotID: "slot" + tail, Slot: "r1-h01/0", HostID: "host" + tail, StartedAt: then, EndedAt: then, Result: "verified", WipedAt: then,
				Wipes: []api.DeviceWipe{{Result: "verified", RecordedAt: then, Nonce: "sha256:07", Sequence: 7, Device: drive("verified", "")}},
			},
			{
				Component: "nvme", Serial: badSerial, SlotID: "slot" + tail, Slot: "r1-h01/0", HostID: "host" + tail, Generation: 1, TenantID: "ten" + tail, AllocationID: "alloc" + tail, VMID: "vm" + tail, StartedAt: then, EndedAt: then, Result: "quarantined",
				Wipes: []api.DeviceWipe{
					{Result: "quarantined", Component: "nvme", Reason: "wipe.canary_survived", RecordedAt: then, Sequence: 9, Device: drive("failed", "wipe.canary_survived")},
					{Result: "quarantined", Component: "host", Reason: "wipe.deadline", RecordedAt: then, Sequence: 12},
				},
			},
		},
		Next: "p2",
	}
	if r.URL.Query().Get("reports") == "true" {
		h.Items[0].Wipes[0].Report = wipedLease(r).Report
	}
	if r.URL.Query().Get("cursor") == "p2" {
		h.Next, h.Items = "", []*api.DeviceLease{{Component: "nvme", Serial: badSerial, SlotID: other, Slot: "r1-h02/1", HostID: "host" + tail, Generation: 4, StartedAt: then, Wipes: []api.DeviceWipe{}}}
	}
	return 200, h
}

func (s *fakeSite) console(*http.Request, map[string]any) (int, any) {
	return 200, api.Console{VMID: "vm" + tail, Offset: 12, Data: "Ym9vdGVkLCBvawo="}
}

func (s *fakeSite) events(r *http.Request, _ map[string]any) (int, any) {
	if r.URL.Query().Get("after") != "" {
		return 200, api.Events{Items: []api.Event{}, NextCursor: "c2"}
	}
	return 200, api.Events{NextCursor: "c2", Items: []api.Event{
		{SpecVersion: "1.0", ID: "c1", Source: "/sites/auh1", Type: "allocation.placed", Subject: "alloc" + tail, Time: then, Sequence: 101, Data: json.RawMessage(`{"count":1}`)},
		{SpecVersion: "1.0", ID: "c2", Source: "/sites/auh1", Type: "ledger.posted", Subject: "tx" + tail, Time: then, Sequence: 101, Data: json.RawMessage(`{"amount":9007199254740993}`)},
	}}
}

func (s *fakeSite) balance(r *http.Request, _ map[string]any) (int, any) {
	return 200, api.Balance{Currency: "USD", Available: 97_510_000, Held: 2_490_000, Unbilled: 1, Receivable: 0, AsOf: then}
}

func (s *fakeSite) ledger(*http.Request, map[string]any) (int, any) {
	return 200, api.List[api.LedgerEntry]{Items: []api.LedgerEntry{
		{Sequence: 101, TxID: "tx" + tail, TenantID: "ten" + tail, Kind: "hold", Account: "lot:grant" + tail, Amount: -2_490_000, Currency: "USD", EffectiveAt: then, RecordedAt: then},
		{Sequence: 101, TxID: "tx" + tail, TenantID: "ten" + tail, Kind: "hold", Account: "hold:1", Amount: 2_490_000, Currency: "USD", EffectiveAt: then, RecordedAt: then},
	}}
}

func (s *fakeSite) usage(*http.Request, map[string]any) (int, any) {
	return 200, api.List[api.UsageLine]{Items: []api.UsageLine{{VMID: "vm" + tail, AllocationID: "alloc" + tail, Allocation: "train-7", SKU: "gpu-1x", GPUs: 1, Start: then}}}
}

func (s *fakeSite) credit(r *http.Request, b map[string]any) (int, any) {
	if !admin(r) {
		return 0, problem(403, "auth.platform_only", "this needs one of the platform roles [finance]")
	}
	return 201, api.Credit{ID: "grant" + tail, TenantID: r.PathValue("t"), State: "active", Currency: fmt.Sprint(b["currency"]), Amount: int64(b["amount_micros"].(float64)), Kind: fmt.Sprint(b["kind"]), CreatedAt: then}
}

func (s *fakeSite) key(_ *http.Request, b map[string]any) (int, any) {
	return 201, api.APIKey{ID: "key" + tail, Name: fmt.Sprint(b["name"]), State: "active", TenantID: "ten" + tail, UserID: "usr" + tail, CreatedAt: then, Secret: "gpk_newsecret"}
}

func (s *fakeSite) member(r *http.Request, b map[string]any) (int, any) {
	return 201, api.Member{ID: "usr" + tail, UserID: "usr" + tail, TenantID: r.PathValue("t"), Role: fmt.Sprint(b["role"]), State: "active"}
}

func (s *fakeSite) policy(r *http.Request, b map[string]any) (int, any) {
	v, _ := json.Marshal(b["value"])
	return 200, api.Policy{ID: "tenant:" + r.PathValue("t") + ":" + r.PathValue("key"), Key: r.PathValue("key"), Value: v, Scope: "tenant", ScopeID: r.PathValue("t"), State: "set"}
}

func (s *fakeSite) effective(*http.Request, map[string]any) (int, any) {
	return 200, api.EffectivePolicies{
		Items: []api.EffectivePolicy{{Key: "quota.gpus", Kind: "guardrail", Value: json.RawMessage("64"), Scope: "tenant", ScopeID: "ten" + tail, Event: "c1", Overruled: []string{"global"}}},
		Keys:  []api.PolicyMeaning{{Key: "quota.gpus", Kind: "guardrail", Meaning: "GPUs that may be held at once"}},
	}
}

func (s *fakeSite) hosts(r *http.Request, _ map[string]any) (int, any) {
	all := []api.Host{
		{
			ID: "host" + tail, Name: "r1-h01", State: "in_service", Rack: "r1", GPUClass: "h100-sxm5-80gb", Slots: 8, Available: 7, InUse: 1, EnrolledAt: then,
			Health: &api.HostHealth{LastHeartbeatAt: then, Version: "v1.2.3", Generation: 8, Executed: 7, Backlog: 2, VMs: 1, Problem: "the journal is full"},
		},
		{ID: "host_06g3n4k8w2v5r9t1y7m0q4x8z2", Name: "r1-h02", State: "proposed", Rack: "r1", EnrolledAt: then},
	}
	if r.URL.Query().Get("cursor") == "" {
		return 200, api.List[api.Host]{Items: all[:1], NextCursor: "p2"}
	}
	return 200, api.List[api.Host]{Items: all[1:]}
}

func (s *fakeSite) addHost(_ *http.Request, b map[string]any) (int, any) {
	return 201, api.Host{ID: "host" + tail, Name: fmt.Sprint(b["name"]), State: "enrolled", EnrolledAt: then, Token: "enr_token"}
}

func (s *fakeSite) slotMap(r *http.Request, _ map[string]any) (int, any) {
	m := &domain.SlotMap{
		GPUClass: "h100-sxm5-80gb", ACSProfile: "strict", Kernel: "6.12.1", Firmware: "Vendor 2.1",
		Nodes:  []domain.NUMANode{{Threads: []uint16{0, 1, 2, 3, 64, 65, 66, 67}, MemoryMiB: 262144, HugepageKiB: 1048576, Hugepages: 240}},
		Unsafe: []domain.UnsafeDevice{{Address: "0000:aa:00.0", Reason: "shares its IOMMU group\x1b[2J"}},
		Spares: []domain.SpareDevice{{Kind: "nvme", Device: domain.Device{Address: "0000:2c:00.0", Serial: "N9"}, OnDisk: "LVM2", Why: "no GPU is left for it"}},
		Slots: []domain.SlotSpec{
			{
				GPU: domain.Device{
					Address: "0000:1b:00.0", Serial: "G1", SerialFrom: "device", Model: "H100", Firmware: "96.00", PCIID: "10de:2330", ModuleID: 3,
					Resets: []string{"flr", "bus"}, IOMMUGroup: 7, Root: "pci0000:16", Switch: "0000:18:00.0", Functions: []domain.DeviceFunction{{Address: "0000:1b:00.1"}},
				},
				NVMe:    domain.Device{Address: "0000:1c:00.0", Serial: "N1", SerialFrom: "device", Model: "P5800", Firmware: "1.0", PCIID: "8086:2701", SizeBytes: 1000204886016, LBABytes: 512, IOMMUGroup: 8},
				IBVF:    domain.Device{Address: "0000:1d:00.1", Serial: "V1", SerialFrom: "location", PCIID: "15b3:101e", GUID: "02:00", PF: "0000:1d:00.0", VFIndex: 1, Port: 1, IOMMUGroup: 9},
				Threads: []uint16{2, 3, 66, 67}, MemoryMiB: 196608, OnDisk: "ext4 labelled \"data\"", Why: "drive below the same PCIe switch",
			},
			{Index: 1, GPU: domain.Device{Address: "0000:3b:00.0", Serial: "G2"}, NVMe: domain.Device{Address: "0000:3c:00.0", Serial: "N2"}, NUMANode: 0, Threads: []uint16{5}, MemoryMiB: 1024, OnDisk: "empty"},
		},
	}
	return 200, api.SlotMaps{HostID: r.PathValue("h"), State: "proposed", ProposalDigest: "sha256:" + strings.Repeat("ab", 32), Proposal: m, ProposedAt: then}
}

func (s *fakeSite) approve(r *http.Request, b map[string]any) (int, any) {
	if b["digest"] != "sha256:"+strings.Repeat("ab", 32) || b["wipe_policy"] != "auto" {
		return 0, problem(409, "host.wrong_digest", "this is not the proposal")
	}
	return 202, api.ApprovedMap{ID: r.PathValue("h"), State: "approved", Digest: fmt.Sprint(b["digest"]), Slots: []api.ApprovedSlot{{ID: "slot" + tail, State: "wiping", Policy: "auto"}}}
}

func (s *fakeSite) cordon(r *http.Request, _ map[string]any) (int, any) {
	return 202, api.Changed{ID: r.PathValue("h"), State: "cordoned"}
}

func (s *fakeSite) slots(r *http.Request, _ map[string]any) (int, any) {
	if !admin(r) {
		return 0, problem(403, "auth.platform_only", "this needs a platform role")
	}
	return 200, api.List[api.Slot]{Items: []api.Slot{
		{ID: "slot" + tail, Name: "r1-h01/0", State: "available", HostID: "host" + tail, GPUClass: "h100-sxm5-80gb", Generation: 3, ChangedAt: then},
		{ID: "slot_06g3n4k8w2v5r9t1y7m0q4x8z2", Name: "r1-h01/1", State: "quarantined", HostID: "host" + tail, Index: 1, Component: "nvme", RepairScope: "device", Reason: "wipe-failed", ChangedAt: then},
	}}
}

func (s *fakeSite) quarantine(r *http.Request, b map[string]any) (int, any) {
	return 202, api.Changed{ID: r.PathValue("s"), State: "quarantined"}
}

func (s *fakeSite) skus(*http.Request, map[string]any) (int, any) {
	return 200, api.List[api.SKU]{Items: []api.SKU{{ID: "sku" + tail, Name: "gpu-1x", State: "active", Shape: 1, Prices: []api.Price{{Currency: "USD", Micros: 2_490_000, Effective: then}}, CreatedAt: then}}}
}

func (s *fakeSite) price(r *http.Request, b map[string]any) (int, any) {
	return 201, api.Price{ID: "price" + tail, SKUID: r.PathValue("s"), Currency: fmt.Sprint(b["currency"]), Micros: int64(b["micros_per_unit_hour"].(float64)), Effective: then, Recorded: then}
}

func (s *fakeSite) audit(*http.Request, map[string]any) (int, any) {
	return 200, api.List[api.AuditEntry]{Items: []api.AuditEntry{{Sequence: 7, At: then, CommandID: "cmd" + tail, Type: "allocation.create", Actor: "api_key", UserID: "usr" + tail, Resource: "alloc" + tail, Events: 3}}}
}
