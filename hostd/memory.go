package hostd

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// The facts that the agent keeps in its journal. Every key ends where a prefix of
// it can be dropped without touching another's.
//
//	vm/<vm>/known               slots     taken on, not yet reported removed
//	vm/<vm>/of                  ids       allocation and tenant
//	vm/<vm>/failed              boot      reported as failed
//	vm/<vm>/rebooted            boot      the machine was told to reboot into it
//	vm/<vm>/boot/<n>/<kind>     ""        reported of that boot
//	vm/<vm>/boot/<n>/lost       time      reported that it was lost then
//	wipe/<lease>/<attempt>/     ""        evidence reported
//	dirty/<drive serial>/       vm        wrote the drive; no verified wipe since; "": somebody, says who asked for its wipe, or a journal that has not met it
//	met/<drive serial>/         ""        whatever was on the drive before, this journal remembers what came after
//	meets                       ""        this journal began with met; an older one has met every drive of its first map
//	slot/<index>/id             slot id
//	slot/<index>/generation     number    the highest placed
//	slot/<index>/fault/<what>/  ""        reported since the last verified wipe
//	inventory/<epoch>/<map>/    ""        proposed
//	conflict/<epoch>/           ""        reported
//	before/<epoch>/             numbers   epoch and generation seen before it
//	accepted                    epoch     of the placement that was taken on last, accounts apart
//	holdings/<epoch>/<n>/       ""        reported, as generation n asked
//	map                         digest    of the slot map in force
func vmKey(id domain.VMID) string    { return "vm/" + id.String() + "/" }
func knownKey(id domain.VMID) string { return vmKey(id) + "known" }
func bootKey(id domain.VMID, boot uint32, kind domain.ReportKind) string {
	return fmt.Sprintf("%sboot/%d/%s", vmKey(id), boot, kind)
}

const (
	mapKey      = "map"
	acceptedKey = "accepted"
	meetsKey    = "meets"
	metPrefix   = "met/"
	lostFact    = "lost"    // since when it is
	doubtFact   = "doubted" // and why
)

func wipeKey(k plan.WipeKey) string         { return fmt.Sprintf("wipe/%s/%d/", k.Lease, k.Attempt) }
func slotIDKey(index uint32) string         { return fmt.Sprintf("slot/%d/id", index) }
func slotFaults(index uint32) string        { return fmt.Sprintf("slot/%d/fault/", index) }
func slotGenerationKey(index uint32) string { return fmt.Sprintf("slot/%d/generation", index) }
func formatSlots(in []uint32) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(in), " ", ","), "[]")
}
func formatBoot(boot uint32) string { return strconv.FormatUint(uint64(boot), 10) }
func parseBoot(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// dirtyKey follows the drive, not the slot: a drive that moves stays dirty.
func dirtyKey(spec *domain.SlotSpec) string { return "dirty/" + driveKey(spec) }
func metKey(spec *domain.SlotSpec) string   { return metPrefix + driveKey(spec) }

func driveKey(spec *domain.SlotSpec) string {
	if spec.NVMe.Serial == "" {
		return fmt.Sprintf("slot-%d/", spec.Index)
	}
	return strings.ReplaceAll(spec.NVMe.Serial, "/", "_") + "/"
}

func parseSlots(s string) []uint32 {
	var out []uint32
	for _, word := range strings.Split(s, ",") {
		if n, ok := parseBoot(word); ok {
			out = append(out, n)
		}
	}
	return out
}

// remember makes the planner's view of the host: what is observed, and what the
// journal adds to it.
func remember(facts map[string]string, m *domain.SlotMap, observed []machine.Observed) plan.State {
	s := plan.State{
		VMs:   observed,
		Known: map[domain.VMID][]uint32{}, GivenUp: map[domain.VMID]uint32{},
		Wiped: map[plan.WipeKey]bool{}, Dirty: map[uint32]domain.VMID{},
	}
	rebooted := map[domain.VMID]uint32{}
	for key, value := range facts {
		word := strings.Split(key, "/")
		switch {
		case word[0] == "vm" && len(word) == 3:
			var id domain.VMID
			if id.UnmarshalText([]byte(word[1])) != nil {
				continue
			}
			boot, _ := parseBoot(value)
			switch word[2] {
			case "known":
				s.Known[id] = parseSlots(value)
			case "failed":
				s.GivenUp[id] = boot
			case "rebooted":
				rebooted[id] = boot
			}
		case word[0] == "wipe" && len(word) == 4:
			var k plan.WipeKey
			if k.Lease.UnmarshalText([]byte(word[1])) == nil {
				k.Attempt, _ = parseBoot(word[2])
				s.Wiped[k] = true
			}
		}
	}
	for i := range m.Slots {
		if by, ok := facts[dirtyKey(&m.Slots[i])]; ok {
			var id domain.VMID
			_ = id.UnmarshalText([]byte(by)) // what cannot be read is nobody's: the drive stays dirty
			s.Dirty[m.Slots[i].Index] = id
		}
	}
	// A machine counts reboots as it can; what it was told is told by the journal.
	for i := range s.VMs {
		s.VMs[i].Boot = max(s.VMs[i].Boot, rebooted[s.VMs[i].VM])
	}
	return s
}

// acceptance is what has to be remembered before anything of d is done: its VMs are
// taken on, its slots have names, wipes that it no longer asks for are forgotten.
func acceptance(d *domain.Desired, facts map[string]string) journal.Change {
	c := journal.Change{Set: map[string]string{mapKey: d.SlotMap.String()}}
	wanted := map[string]bool{}
	placed := func(l *domain.Lease) {
		c.Set[slotIDKey(l.Index)] = l.Slot.String()
		if have, _ := parseBoot(facts[slotGenerationKey(l.Index)]); l.Generation > have {
			c.Set[slotGenerationKey(l.Index)] = formatBoot(l.Generation)
		}
	}
	for i := range d.Wipes {
		w := &d.Wipes[i]
		wanted[wipeKey(plan.KeyOf(w))] = true
		placed(&w.Lease)
	}
	for i := range d.VMs {
		v := &d.VMs[i]
		var slots []uint32
		for k := range v.Leases {
			slots = append(slots, v.Leases[k].Index)
			placed(&v.Leases[k])
		}
		if _, known := facts[knownKey(v.VM)]; !known {
			c.Set[knownKey(v.VM)] = formatSlots(slots)
		}
		c.Set[vmKey(v.VM)+"of"] = v.Allocation.String() + " " + v.Tenant.String()
	}
	for key := range facts {
		if strings.HasPrefix(key, "wipe/") && !wanted[key] {
			c.Drop = append(c.Drop, key)
		}
	}
	epoch := fmt.Sprint(d.Epoch)
	if before, ok := facts[acceptedKey]; ok && before != epoch && !accounted(d.Epoch, facts) {
		c.Drop = append(c.Drop, reported(facts)...)
	}
	c.Set[acceptedKey] = epoch
	return c
}

// accounted is whether this host remembers that it accounted for itself in an epoch. It may
// not, and the site has what it said: a disk that lied lost it, or somebody brought an
// earlier journal back.
func accounted(epoch uint32, facts map[string]string) bool {
	said := fmt.Sprintf("holdings/%d/", epoch)
	for key := range facts {
		if strings.HasPrefix(key, said) {
			return true
		}
	}
	return false
}

// reported are the facts that tell of something that was reported, and that an account
// lets be reported again.
func reported(facts map[string]string) (keys []string) {
	for key := range facts {
		word := strings.Split(key, "/")
		switch {
		case word[0] == "wipe",
			word[0] == "vm" && len(word) > 2 && (word[2] == "boot" || word[2] == "failed"),
			word[0] == "slot" && len(word) > 2 && word[2] == "fault":
			keys = append(keys, key)
		}
	}
	return keys
}

// markNew marks a journal that is new.
func (a *Agent) markNew() error {
	if len(a.journal.Facts("")) > 0 {
		return nil
	}
	return a.journal.Note(journal.Change{Set: map[string]string{meetsKey: ""}})
}

// adopt takes on the VMs that exist and that the journal does not know: it was
// lost, or somebody else made them. Their drives count as written by them. It returns
// all facts as they are then.
func (a *Agent) adopt(observed []machine.Observed) (map[string]string, error) {
	facts, c := a.journal.Facts(""), journal.Change{Set: map[string]string{}}
	for _, v := range observed {
		if _, known := facts[knownKey(v.VM)]; known {
			continue
		}
		a.o.Log.Warn("adopted a VM that the journal does not know", "vm", v.VM, "slots", v.Slots)
		c.Set[knownKey(v.VM)] = formatSlots(v.Slots)
		for _, index := range v.Slots {
			if spec := specAt(a.approved, index); spec != nil {
				c.Set[dirtyKey(spec)] = v.VM.String()
			}
		}
	}
	if unknown := meet(&c, facts, a.approved, observed); len(unknown) > 0 {
		a.o.Log.Warn("drives that the journal does not know: no VM comes there before they are wiped", "slots", unknown)
	}
	if len(c.Set)+len(c.Drop) == 0 {
		return facts, nil
	}
	if err := a.journal.Note(c); err != nil {
		return nil, err
	}
	return a.journal.Facts(""), nil
}

// meet takes drives that the journal has not met for written by what stands on them, or by
// somebody: whatever the site says of them, no VM comes there before they were wiped here.
// The site may not know what this host forgot: see "A lost tail" in docs/reliability.md. It
// returns the slots of which nobody knows.
func meet(c *journal.Change, facts map[string]string, m *domain.SlotMap, observed []machine.Observed) (unknown []uint32) {
	stands := map[uint32]domain.VMID{}
	for _, v := range observed {
		for _, index := range v.Slots {
			stands[index] = v.VM
		}
	}
	_, meets := facts[meetsKey]
	here := map[string]bool{}
	for i := range m.Slots {
		spec := &m.Slots[i]
		here[metKey(spec)] = true
		if _, met := facts[metKey(spec)]; met {
			continue
		}
		c.Set[metKey(spec)], c.Set[meetsKey] = "", ""
		_, dirty := facts[dirtyKey(spec)]
		if _, now := c.Set[dirtyKey(spec)]; dirty || now || !meets {
			continue
		}
		by := ""
		if id, ok := stands[spec.Index]; ok { // also one that the newest placement names
			by = id.String()
		} else {
			unknown = append(unknown, spec.Index)
		}
		c.Set[dirtyKey(spec)] = by
	}
	for key := range facts {
		if strings.HasPrefix(key, metPrefix) && !here[key] { // if the drive comes back it may have been anywhere
			c.Drop = append(c.Drop, key)
		}
	}
	return unknown
}

func specAt(m *domain.SlotMap, index uint32) *domain.SlotSpec {
	for i := range m.Slots {
		if m.Slots[i].Index == index {
			return &m.Slots[i]
		}
	}
	return nil
}
