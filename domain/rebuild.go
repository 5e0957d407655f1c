package domain

import "fmt"

// rebuild makes everything that follows from the rows.
func (w *World) rebuild() (err error) {
	defer func() {
		if r := recover(); r != nil { // a row that names a row that is not there
			err = fmt.Errorf("inconsistent: %v", r)
		}
	}()
	for _, u := range w.members.rows() {
		if u.Role == TenantOwner {
			w.tenants.get(u.Tenant).Owners++
		}
		w.operators += uint32(u.Platform & RoleOperator)
	}
	for _, k := range w.keys.rows() {
		w.keyByHash[k.Hash] = k.ID
		if !k.Tenant.IsZero() {
			w.tenants.get(k.Tenant).Keys++
		}
	}
	for _, s := range w.skus.rows() {
		w.skuNames[s.Name] = s.ID
	}
	for _, p := range w.projects.rows() {
		w.projectNames[projectName{p.Tenant, p.Name}] = p.ID
	}
	for row, t := range w.tenants.rows() {
		w.tenantNames[t.Name] = t.ID
		w.timers.add(t.AccrueAt, timerAccrue, row)
		w.timers.add(t.RunwayAt, timerRunway, row)
		w.timers.add(t.GraceUntil, timerGrace, row)
		if t.calendar != nil {
			t.calendar = w.calendars[t.calendar.zone]
		}
		w.timers.add(w.repriceAt(t), timerReprice, row)
	}
	for row, g := range w.grants.rows() {
		w.timers.add(g.Expires, timerGrant, row)
	}
	for _, i := range w.images.rows() {
		w.indexImage(i)
	}
	for _, d := range w.duties.rows() {
		w.dutyOf[d.device] = d.ID
	}
	w.rebuildFleet()
	w.rebuildAllocations()
	return nil
}

func (w *World) rebuildFleet() {
	for row, s := range w.slots.rows() {
		w.indexDevices(row)
		if s.State == SlotIsWiping {
			w.timers.add(s.Deadline, timerWipe, row)
		}
	}
	for row, h := range w.hosts.rows() {
		h.Location, h.GPUClass = w.location(*h.Location), w.word(h.GPUClass)
		if !h.Removed {
			w.indexHost(row)
		}
		w.fleet.addHost(w, row)
		w.fleet.refresh(w, row)
		w.timers.add(h.LostAt, timerLost, row)
		for at, vi := range h.vms {
			w.vms.row(vi).hostAt = uint32(at)
		}
	}
}

func (w *World) rebuildAllocations() {
	for row, a := range w.allocations.rows() {
		t := w.tenants.row(a.tenant)
		t.Held += a.Hold
		w.timers.add(a.Expires, timerExpire, row)
		if a.State >= Releasing {
			continue
		}
		prj := w.projects.get(a.Project)
		gpus := uint32(len(a.vms)) * a.Shape
		t.GPUs += gpus
		t.Allocations++
		prj.GPUs += gpus
		prj.Allocations++
		a.Image = w.word(a.Image)
		w.allocNames.add(w.allocNameHash(row), row, w.allocNameHash)
		w.skus.row(a.sku).live++
	}
	for row, v := range w.vms.rows() {
		w.timers.add(v.Deadline, timerVM, row)
		if v.BillStart == 0 && v.Started != 0 {
			w.timers.add(v.Started.Add(billAnywayAfter), timerBill, row)
		}
		if v.BillStart == 0 || v.BillEnd != 0 {
			continue
		}
		t := w.tenants.row(w.allocations.row(v.alloc).tenant)
		v.lineAt = uint32(len(t.vms))
		t.vms = append(t.vms, row)
		if v.Captured {
			t.captured++
		} else {
			w.timers.add(v.BillStart.Add(firstHour), timerCapture, row)
		}
	}
}
