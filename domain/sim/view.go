package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
)

// view is what the events alone say, told without the domain's help: a read model. The
// world has to agree with it at every commit.
type view struct {
	slots    map[domain.SlotID]*slotView
	vms      map[domain.VMID]*vmView
	allocs   map[domain.AllocationID]*allocView
	order    []*allocView // live ones, in the order of placing
	slotList []*slotView
	balances map[balanceKey]domain.Micros
	number   uint64

	destroyed map[domain.VMID]bool // unknown VMs of which an operator has decided
}

type slotView struct {
	id         domain.SlotID
	host       domain.HostID
	index      uint32
	serials    [3]string
	policy     domain.WipePolicy
	state      domain.SlotState
	generation uint32
	attempt    uint32
	seed       [16]byte
	vm         domain.VMID // that has the lease
	condemned  bool

	nonce nonce
}

// nonce is a lease's, and what it was made of.
type nonce struct {
	seed       [16]byte
	generation uint32
	digest     domain.Digest
}

// leaseNonce is what the present lease's evidence has to name.
func (s *slotView) leaseNonce() domain.Digest {
	if n := &s.nonce; n.digest.IsZero() || n.seed != s.seed || n.generation != s.generation {
		var b [36]byte
		copy(b[:], s.seed[:])
		copy(b[16:], s.id[:])
		binary.BigEndian.PutUint32(b[32:], s.generation)
		*n = nonce{s.seed, s.generation, sha256.Sum256(b[:])}
	}
	return s.nonce.digest
}

type vmView struct {
	id        domain.VMID
	alloc     *allocView
	host      domain.HostID
	slots     []domain.SlotID
	state     domain.AllocationState
	power     domain.Power
	boot      uint32
	ran       bool        // its disk is the tenant's
	stops     int         // times it was to be off
	started   domain.Time // billed from
	ended     domain.Time
	free      bool
	releasing domain.Time // since when, by nobody's clock
	asked     domain.Time // when it was last to be off
}

type allocView struct {
	id      domain.AllocationID
	tenant  domain.TenantID
	project domain.ProjectID
	sku     domain.SKUID
	shape   uint32
	locked  domain.Micros
	expires domain.Time // 0: never
	state   domain.AllocationState
	vms     []*vmView
}

type balanceKey struct {
	tenant  domain.TenantID
	account domain.Account
}

func newView() *view {
	return &view{
		slots: map[domain.SlotID]*slotView{}, vms: map[domain.VMID]*vmView{}, allocs: map[domain.AllocationID]*allocView{}, balances: map[balanceKey]domain.Micros{}, destroyed: map[domain.VMID]bool{},
	}
}

func serialsOf(s *domain.SlotSpec) [3]string {
	return [3]string{s.GPU.Serial, s.NVMe.Serial, s.IBVF.Serial}
}

func (v *view) slot(id domain.SlotID, host domain.HostID) *slotView {
	s := v.slots[id]
	if s == nil {
		s = &slotView{id: id, host: host, state: domain.SlotIsProposed}
		v.slots[id] = s
		v.slotList = append(v.slotList, s)
	}
	return s
}

// apply takes one event in.
func (v *view) apply(e domain.EventBody) {
	switch e := e.(type) {
	case *domain.MapApproved:
		for _, a := range e.Slots {
			s := v.slot(a.ID, e.Host)
			s.index, s.serials, s.policy = a.Spec.Index, serialsOf(&a.Spec), a.Policy
		}
	case *domain.MapAmended:
		for _, a := range e.Slots {
			s := v.slot(a.ID, e.Host)
			if a.Change == "replaced" {
				s.generation++
				s.attempt, s.condemned = 0, false
			}
			s.index, s.serials, s.policy = a.Spec.Index, serialsOf(&a.Spec), a.Policy
		}
	case *domain.SlotWipeStarted:
		for _, w := range e.Slots {
			s := v.slots[w.Slot]
			s.state, s.attempt, s.vm = domain.SlotIsWiping, w.Attempt, domain.VMID{}
			if e.Seed != [16]byte{} {
				s.seed = e.Seed
			}
		}
	case *domain.SlotWiped:
		s := v.slots[e.Slot]
		s.state, s.attempt = domain.SlotIsAvailable, 0
	case *domain.SlotQuarantined:
		s := v.slots[e.Slot]
		s.state, s.condemned = domain.SlotIsQuarantined, false
	case *domain.SlotCondemned:
		v.slots[e.Slot].condemned = true
	case *domain.SlotRetired:
		s := v.slots[e.Slot]
		s.state, s.condemned, s.serials = domain.SlotIsRetired, false, [3]string{}
	case *domain.HostReconciled:
		for _, s := range e.Slots {
			v.slots[s.Slot].generation = s.Generation
		}
		for _, b := range e.Boots {
			v.vms[b.VM].boot = b.Boot
		}
	case *domain.UnknownVMDestroyed:
		v.destroyed[e.VM] = true
	case *domain.AllocationPlaced:
		v.place(e)
	case *domain.LedgerPosted:
		for _, l := range e.Legs {
			key := balanceKey{account: l.Account}
			if l.Account.Kind.OfTenant() {
				key.tenant = e.Tenant
			}
			if l.Account.Kind == domain.AccountHold {
				key.account.Ref = [16]byte{}
			}
			v.balances[key] += l.Amount
		}
	default:
		v.applyVM(e)
	}
}

func (v *view) place(e *domain.AllocationPlaced) {
	a := &allocView{id: e.ID, tenant: e.Tenant, project: e.Project, sku: e.SKU, shape: e.Shape, locked: e.LockedRate, expires: e.Expires, state: domain.Provisioning}
	for _, p := range e.VMs {
		m := &vmView{id: p.VM, alloc: a, host: p.Host, slots: p.Slots, state: domain.Provisioning, power: domain.PowerOn, boot: 1}
		for _, id := range p.Slots {
			s := v.slots[id]
			s.state, s.vm, s.seed, s.attempt = domain.SlotIsReserved, p.VM, e.Seed, 0
			s.generation++
		}
		a.vms = append(a.vms, m)
		v.vms[p.VM] = m
	}
	v.allocs[e.ID] = a
	v.order = append(v.order, a)
}

func (v *view) applyVM(e domain.EventBody) {
	var a *allocView
	switch e := e.(type) {
	case *domain.VMStarted:
		for _, id := range v.vms[e.VM].slots {
			v.slots[id].state = domain.SlotIsActive
		}
	case *domain.VMRunning:
		m := v.vms[e.VM]
		m.state, m.ran, a = domain.Running, true, m.alloc
	case *domain.VMStopped:
		m := v.vms[e.VM]
		m.state, m.power, a = domain.Stopped, domain.PowerOff, m.alloc
		m.stops++
	case *domain.VMLost:
		if m := v.vms[e.VM]; m.state == domain.Running {
			m.state, a = domain.Starting, m.alloc
		}
	case *domain.VMRemoved:
		v.vms[e.VM].state = domain.Released
	case *domain.VMBillable:
		v.vms[e.VM].started = e.At
	case *domain.AllocationStopRequested:
		a = v.allocs[e.ID]
		for _, m := range a.vms {
			m.power = domain.PowerOff
			m.stops++
			if m.state == domain.Running || m.state == domain.Starting {
				m.state = domain.Stopping
			}
		}
	case *domain.AllocationStartRequested:
		a = v.allocs[e.ID]
		for _, m := range a.vms {
			m.power = domain.PowerOn
			if m.state == domain.Stopped {
				m.boot, m.state = m.boot+1, domain.Starting
			}
		}
	case *domain.AllocationRebootRequested:
		a = v.allocs[e.ID]
		for _, m := range a.vms {
			if m.state == domain.Running {
				m.boot, m.state = m.boot+1, domain.Starting
			}
		}
	case *domain.AllocationReleasing:
		v.releasing(e)
	case *domain.AllocationReleased:
		a := v.allocs[e.ID]
		for _, m := range a.vms {
			m.state = domain.Released
		}
		a.state = domain.Released
		delete(v.allocs, e.ID)
		v.order = slices.DeleteFunc(v.order, func(o *allocView) bool { return o == a })
	}
	if a == nil || a.state >= domain.Releasing {
		return
	}
	a.state = domain.Failed
	for _, m := range a.vms {
		a.state = min(a.state, m.state)
	}
}

func (v *view) releasing(e *domain.AllocationReleasing) {
	a := v.allocs[e.ID]
	a.state = domain.Releasing
	if e.Failed {
		a.state = domain.Failed
	}
	for _, m := range a.vms {
		m.state = domain.Releasing
		if m.started != 0 {
			m.ended, m.free = max(m.started, e.BilledTo), e.Free
		}
	}
}
