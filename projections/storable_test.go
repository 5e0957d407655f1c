package projections

import (
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// What a host says in bytes that Postgres does not store stops nothing.
func TestHostsMaySayAnything(t *testing.T) {
	t.Parallel()
	const bad, shown = "a\x00b\xff\xfe\\u0000", `a�b��\u0000`
	s := newSite(t)
	h := s.host("h1", 1)
	p, _ := h.s.w.PlacementOf(h.id)
	for _, pw := range p.Desired.Wipes {
		h.report(domain.ReportWiped, func(r *domain.Report) {
			r.Wipe = &domain.WipeReport{Slot: pw.Lease.Slot, Generation: pw.Lease.Generation, Nonce: pw.Lease.Nonce, Attempt: pw.Attempt, Devices: []domain.DeviceWipe{
				{Component: "gpu", Serial: h.specs[0].GPU.Serial, Result: domain.WipeFailed, Detail: bad},
			}}
		})
	}
	m := domain.SlotMap{GPUClass: "h100", Nodes: []domain.NUMANode{{Node: 0, MemoryMiB: 1 << 20, Threads: []uint16{999, 0}}}, Slots: h.specs, Kernel: bad}
	m.Slots[0].NVMe.Serial, m.Slots[0].NVMe.Model = "n"+bad, bad
	h.report(domain.ReportInventory, func(r *domain.Report) { r.Inventory = &m })
	s.system(&domain.ApproveMap{Host: h.id, Digest: m.Digest()})
	h.wipe()
	a := s.launch(s.tenant("acme"), s.sku("h100-1", 1), "one")
	h.report(domain.ReportStarted, func(r *domain.Report) {
		r.VM = &domain.VMReport{VM: a.VMs[0].VM, Boot: 1, At: s.at, Address: bad}
	})
	h.vm(domain.ReportAlive, a.VMs[0].VM, 1)
	h.report(domain.ReportReady, func(r *domain.Report) {
		r.VM = &domain.VMReport{VM: a.VMs[0].VM, Boot: 1, At: s.at, Address: bad}
	})
	m.Kernel += "2"
	h.report(domain.ReportInventory, func(r *domain.Report) { r.Inventory = &m })
	url := newDatabase(t)
	store := openStore(t, url)
	pr, _ := run(t, store, s)
	waitFor(t, pr, s.w.Head.N)
	for _, sql := range []string{
		`SELECT proposal->>'kernel' FROM hosts`, `SELECT address FROM vms`, `SELECT model FROM device_places WHERE component = 'nvme' AND until IS NULL`,
		`SELECT evidence->'devices'->0->>'detail' FROM leases WHERE generation = 0`, `SELECT substr(spec->'nvme'->>'serial', 2) FROM slots`,
	} {
		want(t, sql, query(t, url, sql), shown+map[bool]string{true: "2"}[sql == `SELECT proposal->>'kernel' FROM hosts`])
	}
	if got := items[Tenant](t)(store.Reader(nil).Tenants(t.Context(), platform, ListOptions{Name: bad})); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if d := must[DeviceHistory](t)(store.Reader(nil).Device(t.Context(), platform, "n"+bad, ListOptions{})); len(d.Places) != 1 {
		t.Errorf("%+v", d)
	}
}
