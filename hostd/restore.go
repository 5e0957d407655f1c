package hostd

import (
	"github.com/gpuaas/gpuaas/domain"
)

// restore takes up where the last life was: the placement that it carried out, so that
// what a reboot of the host took down comes back also while the site is away, and the
// map that is in force, so that nothing of a tenant's is read before the site has
// spoken. What is kept is carried out only if it is exactly what the fence saw last.
// Without it the map is still known, by its digest in the journal.
func (a *Agent) restore() error {
	kept, err := a.fence.Kept()
	if err != nil {
		a.o.Log.Error("the placement of the last life is not used: this host waits for the site", "err", err)
	}
	var d *domain.Desired
	if kept != nil {
		d = &kept.Desired
	}
	if d != nil && (d.Host != a.o.Host || d.Site != a.o.Site) {
		a.o.Log.Error("the placement of the last life is another host's: ignored", "site", d.Site, "host", d.Host)
		d = nil
	}
	if d == nil {
		a.inForce.Store(a.mapInForce())
		if a.fence.Seen().Generation > 0 && a.inForce.Load() == nil {
			a.o.Log.Warn("no approved slot map is known until the site says which is")
		}
		return nil
	}
	// The journal may have begun anew since.
	if !d.Account {
		if err := a.journal.Note(acceptance(d, a.journal.Facts(""))); err != nil {
			return full(err)
		}
	}
	a.status.follow(kept.From, true)
	a.takeOn(d)
	a.o.Log.Info("the placement of the last life", "epoch", d.Epoch, "generation", d.Generation, "vms", len(d.VMs), "wipes", len(d.Wipes))
	return nil
}

// takeOn makes d what is desired. A map that came with it is looked for at once: what
// is in it leaves the host's drivers.
func (a *Agent) takeOn(d *domain.Desired) {
	a.desired = d
	if d.Account { // what was approved before stays so until the site has heard
		if a.approved == nil {
			a.approved = a.mapInForce()
			a.inForce.Store(a.approved)
		}
		return
	}
	a.approve(a.maps.load(d.SlotMap))
}

// approve sets the map that desired names, nil if it is not one of ours. Then what was
// approved before is still tenants', unless the site says that nothing is, and keeps nothing.
func (a *Agent) approve(m *domain.SlotMap) {
	before := a.inForce.Load()
	a.approved = m
	if m != nil || a.desired.SlotMap.IsZero() && len(a.desired.Keep) == 0 {
		a.inForce.Store(m)
	}
	if m != nil && (before == nil || before.Digest() != m.Digest()) {
		a.lookSoon()
	}
}

// mapInForce is the map that the journal names as approved, nil if there is none.
func (a *Agent) mapInForce() *domain.SlotMap {
	var digest domain.Digest
	if text, ok := a.journal.Fact(mapKey); !ok || digest.UnmarshalText([]byte(text)) != nil {
		return nil
	}
	return a.maps.load(digest)
}
