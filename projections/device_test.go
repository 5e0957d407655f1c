package projections

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/migrations"
)

// devices is a life of devices. The drive of the slot that is leased fails its wipes, a
// spare takes its place, and it is wiped on another host; the drives of the two other
// slots change places; a GPU has the serial of the first drive, and goes again. It
// returns the leased slot's number.
func (s *site) devices() (tenant, int) {
	h1, h2 := s.host("h1", 3), s.host("h2", 1)
	h1.wipeAs(domain.WipeVerified)
	h2.wipeAs(domain.WipeVerified)
	s.system(&domain.ActOnHost{Host: h2.id, Action: domain.HostCordon})
	sku, ten := s.sku("h100-1", 1), s.tenant("acme")
	a := s.launch(ten, sku, "one")
	slot := a.VMs[0].Slots[0]
	i := slices.Index(h1.slots, slot)
	s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionRelease})
	h1.wipeAs(domain.WipeFailed)
	s.system(&domain.RewipeSlot{Slot: slot})
	h1.wipeAs(domain.WipePartial)

	drive := h1.specs[i].NVMe
	one, two := &h1.specs[(i+1)%3], &h1.specs[(i+2)%3]
	one.NVMe, two.NVMe = two.NVMe, one.NVMe
	h1.specs[i].NVMe.Serial = "spare drive/7 A"
	for k := range h1.specs {
		h1.specs[k].IBVF = domain.Device{Address: fmt.Sprintf("v%d", k), Serial: fmt.Sprintf("0c:42/vf%d", k), SerialFrom: domain.SerialOfPF, Model: "CX-7"}
	}
	h1.amend()
	h1.wipeAs(domain.WipeVerified)
	for a = s.launch(ten, sku, "two"); a.VMs[0].Slots[0] != slot; {
		a = s.launch(ten, sku, "more")
	}

	h2.specs[0].NVMe = drive
	h2.amend()
	h2.wipeAs(domain.WipeVerified)

	h3 := s.host("h3", 2)
	h3.wipeAs(domain.WipeVerified)
	s.system(&domain.RetireSlot{Slot: h3.slots[1], Reason: "old"})
	h3.specs[1].GPU.Serial = drive.Serial
	h3.amend()
	s.system(&domain.RetireSlot{Slot: h3.slots[0], Reason: "old"})
	return ten, i
}

// amend proposes the specs as they are now, and approves them.
func (h *fleetHost) amend() {
	h.s.t.Helper()
	m := domain.SlotMap{GPUClass: "h100", Nodes: []domain.NUMANode{{Node: 0, MemoryMiB: 1 << 20, Threads: []uint16{999}}}, Slots: slices.Clone(h.specs)}
	for i := range m.Slots {
		m.Nodes[0].Threads = append(m.Nodes[0].Threads, m.Slots[i].Threads...)
	}
	h.report(domain.ReportInventory, func(r *domain.Report) { r.Inventory = &m })
	one[*domain.MapAmended](h.s, h.s.system(&domain.ApproveMap{Host: h.id, Digest: m.Digest(), Policy: domain.WipeSanitize}))
}

// wipeAs reports the outcome of every wipe that is awaited, with word of all devices.
func (h *fleetHost) wipeAs(result domain.WipeResult) {
	h.s.t.Helper()
	p, _ := h.s.w.PlacementOf(h.id)
	for _, pw := range p.Desired.Wipes {
		spec := h.specs[pw.Lease.Index]
		w := &domain.WipeReport{
			Slot: pw.Lease.Slot, Generation: pw.Lease.Generation, Nonce: pw.Lease.Nonce, Attempt: pw.Attempt, StartedAt: h.s.at, EndedAt: h.s.at,
			Devices: []domain.DeviceWipe{
				{Component: "gpu", Serial: spec.GPU.Serial, Method: "flr", Result: domain.WipeVerified},
				{Component: "nvme", Serial: spec.NVMe.Serial, Method: "sanitize-crypto", Result: result, BytesRead: 1 << 20},
			},
		}
		if spec.IBVF.Serial != "" {
			w.Devices = append(w.Devices, domain.DeviceWipe{Component: "ib_vf", Serial: spec.IBVF.Serial, Method: "vf-reset", Result: domain.WipeVerified})
		}
		h.report(domain.ReportWiped, func(r *domain.Report) { r.Wipe = w })
	}
}

// told is a history in short: a line a place, a lease with the wipes of the device,
// and a duty.
func told(t *testing.T, ten tenant, d DeviceHistory) string {
	t.Helper()
	var out []string
	for _, p := range d.Places {
		last := "-"
		if p.LastGeneration != nil {
			last = fmt.Sprint(*p.LastGeneration)
		}
		if (p.Until == 0) != (p.LastGeneration == nil) || p.Until != 0 && p.Until < p.Since || p.Host+"/" != p.Slot[:len(p.Host)+1] {
			t.Errorf("%+v", p)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s in %s: %d to %s %s for=%s by=%s", p.Component, p.Serial, p.Slot, p.Generation, last, p.Cause, p.Replaced, p.ReplacedBy)))
	}
	for _, l := range d.Leases.Items {
		who := map[string]string{"": "nobody", ten.id.String(): "acme"}[l.TenantID]
		if (l.TenantID == "") != (l.AllocationID == "") || l.StartedAt == 0 {
			t.Errorf("%+v", l)
		}
		line := fmt.Sprintf("%s %s %s %d %s:", l.Component, l.Serial, l.Slot, l.Generation, who)
		for _, raw := range l.Evidence {
			var e wipeEvidence
			if err := json.Unmarshal(raw, &e); err != nil || e.At == 0 || e.Sequence == 0 {
				t.Errorf("%s: %v", raw, err)
			}
			line += " " + e.Result
			for _, w := range e.Devices {
				if w.Component == l.Component {
					line += " " + w.Result.String()
				}
			}
		}
		out = append(out, line)
	}
	for _, w := range d.WipeDuties {
		out = append(out, fmt.Sprintf("duty %s %s %s %t", w.Component, w.State, w.Cause, w.FoundSlotID != ""))
	}
	return strings.Join(out, "\n")
}

// What an auditor is told who follows a serial, however the log was cut.
func TestDevice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, i := s.devices()
	slot := func(k int) string { return fmt.Sprintf("h1/%d", (i+k)%3) }
	drive := func(k int) string { return fmt.Sprintf("h1-nvme%d", (i+k)%3) }
	for _, batch := range []int{1, 4000} {
		store := openStore(t, newDatabase(t))
		p := store.Projector(s)
		p.batch = batch
		stop := start(t, p)
		waitFor(t, p, s.w.Head.N)
		_ = stop()
		r := store.Reader([]byte("key"))
		for serial, lines := range map[string][]string{
			// The drive that failed: on two hosts; beside it a GPU of the same serial.
			drive(0): {
				"nvme " + drive(0) + " in " + slot(0) + ": 0 to 1 replaced for= by=spare drive/7 A",
				"nvme " + drive(0) + " in h2/0: 1 to -  for=h2-nvme0 by=",
				"gpu " + drive(0) + " in h3/1: 0 to -  for= by=",
				"nvme " + drive(0) + " " + slot(0) + " 0 nobody: verified verified",
				"nvme " + drive(0) + " " + slot(0) + " 1 acme: quarantined failed quarantined partial",
				"nvme " + drive(0) + " h2/0 1 nobody: verified verified",
				"gpu " + drive(0) + " h3/1 0 nobody:",
				"duty nvme discharged replaced true",
			},
			"spare drive/7 A": {
				"nvme spare drive/7 A in " + slot(0) + ": 2 to -  for=" + drive(0) + " by=",
				"nvme spare drive/7 A " + slot(0) + " 2 nobody: verified verified",
				"nvme spare drive/7 A " + slot(0) + " 3 acme:",
			},
			// Two that changed places.
			drive(1): {
				"nvme " + drive(1) + " in " + slot(1) + ": 0 to 0 replaced for= by=" + drive(2),
				"nvme " + drive(1) + " in " + slot(2) + ": 1 to -  for=" + drive(2) + " by=",
				"nvme " + drive(1) + " " + slot(1) + " 0 nobody: verified verified",
				"nvme " + drive(1) + " " + slot(2) + " 1 nobody: verified verified",
			},
			// A GPU stays where it is.
			fmt.Sprintf("h1-gpu%d", i): {
				fmt.Sprintf("gpu h1-gpu%d in %s: 0 to -  for= by=", i, slot(0)),
				fmt.Sprintf("gpu h1-gpu%d %s 0 nobody: verified verified", i, slot(0)),
				fmt.Sprintf("gpu h1-gpu%d %s 1 acme: quarantined verified quarantined verified", i, slot(0)),
				fmt.Sprintf("gpu h1-gpu%d %s 2 nobody: verified verified", i, slot(0)),
				fmt.Sprintf("gpu h1-gpu%d %s 3 acme:", i, slot(0)),
			},
			"h3-gpu1": {"gpu h3-gpu1 in h3/1: 0 to 0 retired for= by=", "gpu h3-gpu1 h3/1 0 nobody: verified verified"},
			// A physical function: its virtual ones.
			"0c:42": {
				"ib_vf 0c:42/vf0 in h1/0", "ib_vf 0c:42/vf1 in h1/1", "ib_vf 0c:42/vf2 in h1/2",
			},
			fmt.Sprintf("0c:42/vf%d", i): {
				fmt.Sprintf("ib_vf 0c:42/vf%d in %s: 2 to -  for= by=", i, slot(0)),
				fmt.Sprintf("ib_vf 0c:42/vf%d %s 2 nobody: verified verified", i, slot(0)),
				fmt.Sprintf("ib_vf 0c:42/vf%d %s 3 acme:", i, slot(0)),
			},
		} {
			d := must[DeviceHistory](t)(r.Device(t.Context(), platform, serial, ListOptions{}))
			got := told(t, ten, d)
			if serial == "0c:42" {
				var places []string
				for _, p := range d.Places {
					places = append(places, p.Component+" "+p.Serial+" in "+p.Slot)
				}
				got = strings.Join(places, "\n")
			}
			want(t, serial, got, strings.Join(lines, "\n"))
		}
		for _, nowhere := range []string{"", "0c:4", "0c:42/vf", "h1-nvme%", "spare", "\x00\xff"} {
			if _, _, err := r.Device(t.Context(), platform, nowhere, ListOptions{}); code(err) != "device.not_found" {
				t.Errorf("%q: %v", nowhere, err)
			}
		}
		pages(t, r, drive(0))
	}
}

// pages: the leases in pages of one are those at once, in both directions; places and
// duties are on every page.
func pages(t *testing.T, r *Reader, serial string) {
	t.Helper()
	whole := must[DeviceHistory](t)(r.Device(t.Context(), platform, serial, ListOptions{}))
	for _, descending := range []bool{false, true} {
		var got []DeviceLease
		for o := (ListOptions{Limit: 1, Descending: descending}); ; {
			d := must[DeviceHistory](t)(r.Device(t.Context(), platform, serial, o))
			got = append(got, d.Leases.Items...)
			if len(d.Places) != len(whole.Places) || len(d.WipeDuties) != len(whole.WipeDuties) || len(got) > len(whole.Leases.Items) {
				t.Fatalf("%+v", d)
			}
			if o.Cursor = d.Leases.NextCursor; o.Cursor == "" {
				break
			}
		}
		if descending {
			slices.Reverse(got)
		}
		want(t, "pages", fmt.Sprint(got), fmt.Sprint(whole.Leases.Items))
	}
}

// Tables of the build before get the places of the devices as they are now, and a
// rebuild the ones before.
func TestDevicesOfOlderTables(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, i := s.devices()
	url := newDatabase(t)
	store := openStore(t, url)
	p, stop := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	_ = stop()
	now := func() string {
		return query(t, url, `SELECT ordinal % 4, serial, component, pf, model, serial_from, slot_id, generation, coalesce(last_generation, -1), since, coalesce(until, '-infinity'), cause
			FROM device_places WHERE cause <> 'replaced' AND (component = 'gpu' OR serial <> $1) ORDER BY slot_id, component`, fmt.Sprintf("h1-nvme%d", i))
	}
	before, whole := now(), query(t, url, contents)

	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = "rm_1"
	db := stdlib.OpenDB(*config)
	defer db.Close()
	files, err := fs.Sub(migrations.ReadModel.FS, migrations.ReadModel.Dir)
	if err != nil {
		t.Fatal(err)
	}
	g, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.DownTo(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "migrated", now(), before)
	p, _ = run(t, store, s) // goes on from there
	if _, err := store.Rebuild(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	want(t, "rebuilt", query(t, url, contents), whole)
	waitFor(t, p, s.w.Head.N)
}
