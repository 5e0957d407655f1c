// Package domaintest makes sites to test and measure with: fleets, tenants and
// catalogs, all through ordinary commands. It decides nothing and applies nothing:
// the caller says how a command is submitted.
package domaintest

import (
	"encoding/binary"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// Submit decides a command and returns what followed; it fails the test on a
// refusal. It may be called from many goroutines if the caller's can.
type Submit func(actor domain.Actor, body domain.CommandBody) []domain.EventBody

// Admin makes the first operator and returns its key as an actor. secret is the
// text whose SHA-256 the key has.
func Admin(submit Submit, secret string) domain.Actor {
	user := domain.UserID{1}
	submit(domain.System, &domain.SetOperator{User: user, Roles: domain.RoleOperator | domain.RoleFinance | domain.RoleAuditor})
	e := submit(domain.System, &domain.CreateAPIKey{User: user, Name: "admin", Hash: domain.DigestOf([]byte(secret))})
	return domain.Actor{Kind: domain.ActorKey, Key: e[0].(*domain.APIKeyCreated).ID}
}

// Tenant is a tenant with an owner's key and one project.
type Tenant struct {
	ID      domain.TenantID
	Project domain.ProjectID
	Key     domain.Actor
}

// NewTenant makes one with paid credit in USD.
func NewTenant(submit Submit, admin domain.Actor, name, secret string, credit domain.Micros) Tenant {
	t := Tenant{ID: submit(admin, &domain.CreateTenant{Name: name, Currency: "USD"})[0].(*domain.TenantCreated).ID}
	e := submit(admin, &domain.CreateAPIKey{Tenant: t.ID, Name: "owner", Role: domain.TenantOwner, Hash: domain.DigestOf([]byte(secret))})
	t.Key = domain.Actor{Kind: domain.ActorKey, Key: e[len(e)-1].(*domain.APIKeyCreated).ID}
	t.Project = submit(t.Key, &domain.CreateProject{Tenant: t.ID, Name: "main"})[0].(*domain.ProjectCreated).ID
	if credit > 0 {
		submit(admin, &domain.GrantCredit{Tenant: t.ID, Currency: "USD", Amount: credit, Kind: domain.GrantPaid})
	}
	return t
}

// SKUs makes gpu-1x, gpu-2x, gpu-4x and gpu-8x at a price per GPU-hour.
func SKUs(submit Submit, admin domain.Actor, price domain.Micros) {
	for _, shape := range []uint32{1, 2, 4, 8} {
		id := submit(admin, &domain.CreateSKU{Name: fmt.Sprintf("gpu-%dx", shape), Shape: shape})[0].(*domain.SKUCreated).ID
		submit(admin, &domain.PublishPrice{SKU: id, Currency: "USD", Micros: price})
	}
}

// Map is a sane slot map of a host with two NUMA nodes.
func Map(host string, slots int) *domain.SlotMap {
	m := &domain.SlotMap{GPUClass: "sim-gpu"}
	perNode := (slots + 1) / 2
	for n := range 2 {
		node := domain.NUMANode{Node: uint8(n), MemoryMiB: uint64(perNode)<<15 + 1<<15}
		for i := range 8*perNode + 8 {
			node.Threads = append(node.Threads, uint16(n*1024+i))
		}
		m.Nodes = append(m.Nodes, node)
	}
	for i := range slots {
		n, k := i/perNode, i%perNode
		sp := domain.SlotSpec{
			Index: uint32(i), NUMANode: uint8(n), MemoryMiB: 1 << 15, IOMMUGroups: []uint32{uint32(i)},
			GPU:  domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", i+1), Serial: fmt.Sprintf("GPU-%s-%d", host, i)},
			NVMe: domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", i+0x41), Serial: fmt.Sprintf("NVME-%s-%d", host, i), SizeBytes: 1 << 40},
			IBVF: domain.Device{Address: fmt.Sprintf("0000:%02x:00.1", i+0x81), Serial: fmt.Sprintf("VF-%s-%d", host, i)},
		}
		for t := range 8 {
			sp.Threads = append(sp.Threads, uint16(n*1024+8*k+t))
		}
		m.Slots = append(m.Slots, sp)
	}
	return m
}

// Host is a host that reports as a well-behaved one would.
type Host struct {
	ID      domain.HostID
	Map     *domain.SlotMap
	submit  Submit
	journal domain.JournalID
	n       uint64
}

// NewHost enrols a host, has it propose its map, approves it and reports its first
// wipes: all its slots are available.
func NewHost(submit Submit, admin domain.Actor, name, rack string, slots int) *Host {
	h := &Host{Map: Map(name, slots), submit: submit}
	journal := domain.DigestOf([]byte(name))
	copy(h.journal[:], journal[:])
	token := domain.DigestOf([]byte("token of " + name))
	h.ID = submit(admin, &domain.EnrollHost{Name: name, Rack: rack, TokenID: token})[0].(*domain.HostEnrolled).ID
	submit(domain.System, &domain.AdmitHost{TokenID: token, NATSKey: fmt.Sprintf("U%055d", 0), SignKey: make([]byte, 32)})
	h.Report(&domain.Report{Kind: domain.ReportInventory, Inventory: h.Map})
	events := submit(admin, &domain.ApproveMap{Host: h.ID, Digest: h.Map.Digest(), Policy: domain.WipeAuto})
	wipe := events[1].(*domain.SlotWipeStarted)
	for i, s := range wipe.Slots {
		var b [36]byte
		copy(b[:], wipe.Seed[:])
		copy(b[16:], s.Slot[:])
		binary.BigEndian.PutUint32(b[32:], s.Generation)
		h.Report(&domain.Report{Kind: domain.ReportWiped, Wipe: h.Evidence(domain.PlacedWipe{
			Lease: domain.Lease{Slot: s.Slot, Index: uint32(i), Generation: s.Generation, Nonce: domain.DigestOf(b[:])}, Attempt: s.Attempt,
		})})
	}
	return h
}

// Report sends one report, numbered in the host's journal.
func (h *Host) Report(r *domain.Report) []domain.EventBody {
	h.n++
	r.Host, r.Journal, r.Number, r.Epoch = h.ID, h.journal, h.n, 1
	return h.submit(domain.Actor{Kind: domain.ActorHost, Host: h.ID}, &domain.RecordReport{Host: h.ID, Report: domain.EncodeReport(r)})
}

// Evidence is a report of a wipe that verified every device.
func (h *Host) Evidence(w domain.PlacedWipe) *domain.WipeReport {
	sp := h.Map.Slots[w.Lease.Index]
	return &domain.WipeReport{
		Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt,
		Devices: []domain.DeviceWipe{
			{Component: "gpu", Serial: sp.GPU.Serial, Method: "flr", Result: domain.WipeVerified},
			{Component: "nvme", Serial: sp.NVMe.Serial, Method: "sanitize-crypto", Result: domain.WipeVerified, BytesRead: sp.NVMe.SizeBytes},
			{Component: "ib_vf", Serial: sp.IBVF.Serial, Method: "reset", Result: domain.WipeVerified},
		},
	}
}
