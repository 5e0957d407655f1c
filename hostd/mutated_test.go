package hostd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

// mutations is how many placements a run changes at random.
const mutations = 10_000

// Placements whose bytes or words were changed at random: what cannot be read is an
// error that says why, and whatever is read and executed touches only devices of the
// approved map, exactly as they stand there, and none of them for two at once.
func TestMutatedPlacements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const seed = 20260302
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRack(t, sim.Options{Slots: 4})
		r.rewire = func(m *domain.SlotMap) { m.Slots = m.Slots[:3] } // the fourth slot's devices are nobody's
		g := &guarded{Machine: r.machine, t: t}
		r.through = func(m machine.Machine) machine.Machine { g.Machine = m; return g }
		r.start()
		r.approve()
		g.approve(r.site.proposal())

		base := r.site.desired()
		base.VMs = []domain.PlacedVM{vm(1, 0), vm(2, 1)}
		base.Wipes = []domain.PlacedWipe{{Lease: lease(2, 0), Attempt: 2, Policy: domain.WipeAuto}}
		read, executed := 0, 0
		for n := range mutations {
			p := domain.Placement{Desired: base}
			if n%3 == 0 {
				p.Desired = scramble(rng, base)
			}
			b := domain.EncodePlacement(&p)
			if n%3 != 0 {
				b = flip(rng, b)
			}
			got, err := domain.DecodePlacement(b)
			if err != nil {
				if err.Error() == "" {
					t.Fatalf("an error without a reason for %x", b)
				}
				continue
			}
			read++
			// Generations rise, or nothing would be looked at; now and then one is old, or
			// for somebody else.
			d := &got.Desired
			d.Epoch = base.Epoch
			if rng.IntN(8) > 0 {
				base.Generation++
				d.Site, d.Host, d.Generation = base.Site, base.Host, base.Generation
				executed++
			} else {
				d.Generation = rng.Uint64N(base.Generation) // the same one with another digest ends in quarantine, for good
			}
			r.site.mu.Lock()
			got.Journal, got.Acked = r.site.placed.Journal, r.site.placed.Acked // or the host knows that the log has lost its end
			r.site.mu.Unlock()
			r.site.deliver(got)
			time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
		}
		t.Logf("of %d placements %d could be read, %d were newer than what was known; %d calls of the machine", mutations, read, executed, g.calls)
		if read < mutations/4 || executed < mutations/8 || g.calls < 1000 {
			t.Error("the mutations reach nothing")
		}
		// And it still does what it is told.
		base.Generation++
		r.site.mu.Lock()
		r.site.placed.Desired = base
		r.site.mu.Unlock()
		r.site.place(func(d *domain.Desired) { d.VMs, d.Wipes = []domain.PlacedVM{vm(7, 0)}, nil })
		r.await("the host to have carried out the last placement or said why not", func() bool {
			return r.site.heard("started 7 boot 1") || r.site.count("failed 7 ") > 0
		})
	})
}

// scramble changes what a placement says and leaves it well-formed.
func scramble(rng *rand.Rand, d domain.Desired) domain.Desired {
	d.VMs, d.Wipes = slices.Clone(d.VMs), slices.Clone(d.Wipes)
	for range 1 + rng.IntN(3) {
		index := uint32(rng.IntN(6)) // 3 is not approved, 4 and 5 are not there
		switch rng.IntN(9) {
		case 0:
			v := vm(byte(1+rng.IntN(9)), index)
			v.Boot, v.Power = uint32(rng.IntN(3)), domain.Power(rng.IntN(4))
			d.VMs = append(d.VMs, v)
		case 1:
			d.VMs = append(d.VMs, vm(byte(1+rng.IntN(9)), index, index, uint32(rng.IntN(6))))
		case 2:
			d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: lease(index, uint32(rng.IntN(4))), Attempt: uint32(rng.IntN(3)), Policy: domain.WipePolicy(rng.IntN(7))})
		case 3:
			if rng.IntN(4) == 0 {
				d.SlotMap = domain.DigestOf([]byte{byte(index)})
			}
		case 4:
			if len(d.VMs) > 0 {
				d.VMs = slices.Delete(d.VMs, 0, 1)
			}
		case 5:
			d.Wipes = nil
		case 6:
			if len(d.VMs) > 0 {
				v := &d.VMs[rng.IntN(len(d.VMs))]
				v.Leases = append(slices.Clone(v.Leases), lease(index, 9))
			}
		case 7:
			if len(d.VMs) > 0 {
				v := &d.VMs[rng.IntN(len(d.VMs))]
				v.Leases = nil
			}
		case 8:
			if len(d.VMs) > 0 {
				v := &d.VMs[rng.IntN(len(d.VMs))]
				v.Hostname, v.MAC, v.Image = "../../etc", "ff:ff", string(rune(rng.IntN(64)))
			}
		}
	}
	return d
}

// flip changes a few bytes, cuts, or repeats a piece.
func flip(rng *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + rng.IntN(4) {
		if len(b) == 0 {
			break
		}
		at := rng.IntN(len(b))
		switch rng.IntN(6) {
		case 0:
			b = b[:at]
		case 1:
			b = slices.Insert(b, at, b[at:min(at+rng.IntN(32), len(b))]...)
		default:
			b[at] ^= 1 << rng.IntN(8)
		}
	}
	return b
}

// guarded looks at every call that touches devices.
type guarded struct {
	machine.Machine
	t        *testing.T
	mu       sync.Mutex
	approved []domain.SlotSpec
	wiping   map[uint32]bool
	calls    int
}

func (g *guarded) approve(m *domain.SlotMap) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.approved, g.wiping = m.Slots, map[uint32]bool{}
}

// touches fails the test unless the specs are the approved ones, each once, and none
// is being wiped.
func (g *guarded) touches(what string, specs ...domain.SlotSpec) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.approved == nil {
		return // the first wipes
	}
	g.calls++
	seen := map[uint32]bool{}
	for _, s := range specs {
		if int(s.Index) >= len(g.approved) || !reflect.DeepEqual(s, g.approved[s.Index]) {
			g.t.Errorf("%s of slot %d, which is not approved like this: %+v", what, s.Index, s)
		}
		if seen[s.Index] {
			g.t.Errorf("%s has slot %d twice", what, s.Index)
		}
		if g.wiping[s.Index] {
			g.t.Errorf("%s of slot %d while it is wiped", what, s.Index)
		}
		seen[s.Index] = true
	}
}

func (g *guarded) PrepareDisk(ctx context.Context, v *machine.VM) error {
	g.touches(fmt.Sprintf("the disk of %s", v.VM), v.Slots...)
	return g.Machine.PrepareDisk(ctx, v)
}

func (g *guarded) Start(ctx context.Context, v *machine.VM) error {
	g.touches(fmt.Sprintf("the start of %s", v.VM), v.Slots...)
	return g.Machine.Start(ctx, v)
}

func (g *guarded) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	g.touches("the wipe", slot)
	g.mark(slot.Index, true)
	defer g.mark(slot.Index, false)
	return g.Machine.Wipe(ctx, slot, w)
}

func (g *guarded) mark(index uint32, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wiping != nil {
		g.wiping[index] = on
	}
}
