package sim_test

// mutant is one planted bug: a line of the real code, and what it is changed to.
type mutant struct {
	name     string
	file     string
	old, new string
}

// mutants are the bugs that the simulation has to find. A line that is not there any
// more fails the test: the table is kept with the code.
var mutants = []mutant{
	// Who may, and what is allowed.
	{"launch-without-money", "domain/launch.go", "canSpend(t, p, hold); !ok {", "canSpend(t, p, hold); !ok && hold < 0 {"},
	{"hold-of-one-gpu", "domain/launch.go", "	hold := rate * Micros(gpus)", "	hold := rate * Micros(min(gpus, 1))"},
	{"quota-forgets-what-is-asked", "domain/launch.go", "int64(q.used)+int64(q.more) > limit", "int64(q.used) > limit"},
	{"guardrail-loosened", "domain/policy.go", "	if lower.Int < upper.Int {", "	if lower.Int > upper.Int {"},
	{"strangers-act", "domain/authorize.go", "	if _, _, err := w.requireProject(x, a.Project, role); err != nil {", "	if _, _, err := w.requireProject(x, a.Project, role); err != nil && err.Kind == Forbidden {"},
	{"revoked-key-acts", "domain/authorize.go", "		if k == nil || !k.Usable(x.At) {", "		if k == nil {"},
	{"start-when-suspended", "domain/power.go", "t.State != TenantActive {", "t.State == 0 {"},

	// Placing.
	{"cordoned-host-takes", "domain/host.go", "!h.MapID.IsZero() && !h.Cordoned && ", "!h.MapID.IsZero() && "},
	{"silent-host-takes", "domain/host.go", "!h.Draining && h.Silent == 0 && ", "!h.Draining && "},
	{"powered-off-host-takes", "domain/host.go", "		h.Faulted = true\n", "		h.Faulted = h.Cordoned\n"},
	{"drain-is-nothing", "domain/host.go", "h.Draining = true })", "h.Draining = h.Draining })"},

	// A command's memory.
	{"repeat-by-id-forgotten", "domain/decide.go", "	if pos, ok := w.commands.find(c.ID); ok {", "	if pos, ok := w.commands.find(c.ID); ok && pos.N == 0 {"},
	{"idempotency-key-for-a-minute", "domain/decide.go", "e != nil && e.at >= at.Add(-idemKeyWindow) {", "e != nil && e.at >= at.Add(-Minute/4) {"},
	{"command-window-of-a-minute", "domain/idem.go", "	oldest := int64(now.Add(-CommandWindow)) / int64(Minute)", "	oldest := int64(now) / int64(Minute)"},
	{"command-at-the-commit-before", "commands/core.go", "	pos := domain.Position{N: c.head.N + 1, ", "	pos := domain.Position{N: c.head.N, "},

	// Slots and wipes.
	{"rewipe-of-anything", "domain/wipe.go", "	if s.State != SlotIsQuarantined {", "	if s.State == SlotIsRetired {"},
	{"retired-in-its-wipe", "domain/retire.go", "	case SlotIsAvailable, SlotIsQuarantined:", "	case SlotIsAvailable, SlotIsQuarantined, SlotIsWiping:"},
	{"no-wipe-owed", "domain/wipeduty.go", "	if !s.Dirty && clean {", "	if s.Dirty && clean {"},
	{"changed-under-a-tenant", "domain/amend.go", `	if change != "kept" && s.State`, `	if change == "added" && s.State`},
	{"amended-without-a-wipe", "domain/amend.go", `		if a.Change == "added" || a.Change == "replaced" {
			if err`, `		if a.Change == "added" {
			if err`},
	{"active-slot-quarantined", "domain/quarantine.go", "		held = s.vm != none\n", "		held = s.vm != none && s.State != SlotIsActive\n"},
	{"condemned-is-sold", "domain/wipe.go", "	if s.Condemned {", "	if false {"},
	{"one-host-is-wiped", "domain/release.go", "		byHost = append(byHost, wipe)", "		if len(byHost) == 0 {\n			byHost = append(byHost, wipe)\n		}"},
	{"wipe-of-any-attempt", "domain/wipe.go", "	if r.Generation != s.Generation || r.Attempt != s.Attempt {", "	if r.Generation != s.Generation {"},
	{"wipe-of-any-generation", "domain/wipe.go", "	if r.Generation != s.Generation || r.Attempt != s.Attempt {", "	if r.Attempt != s.Attempt {"},
	{"wipe-of-any-nonce", "domain/wipe.go", "	if r.Nonce != s.lease().Nonce {", "	if r.Nonce.IsZero() {"},
	{"wipe-of-another-hosts-slot", "domain/wipe.go", "	if row == none || w.slots.row(row).host != host {", "	if row == none {"},
	{"device-twice", "domain/wipe.go", "		case k < 0 || seen[k]:", "		case k < 0:"},
	{"any-serial", "domain/wipe.go", "		case deviceKey(k, d.Serial) != s.devices[k]:", "		case d.Serial == \"\" && k == 0:"},
	{"device-missing", "domain/wipe.go", "		if key != 0 && !seen[k] {", "		if key != 0 && !seen[k] && k > 2 {"},
	{"failed-is-verified", "domain/wipe.go", "	case d.Result != WipeVerified:", "	case d.Result == WipeFailed:"},
	{"verified-with-a-reason", "domain/wipe.go", `	case d.Reason != "":
		return "wipe.contradiction"`, `	case d.Reason == "never":
		return "wipe.contradiction"`},
	{"canary-survived", "domain/wipe.go", "	case d.Gone != d.Planted:", "	case d.Gone > d.Planted:"},
	{"no-canaries", "domain/wipe.go", "d.Planted == 0 {", "d.Planted == 1 {"},
	{"firmware-changed", "domain/wipe.go", "	case d.Firmware != d.Approved && ", "	case d.Firmware == \"\" && "},
	{"half-read", "domain/wipe.go", "		if d.BytesRead != d.SizeBytes || ", "		if "},
	{"sample-of-nothing", "domain/wipe.go", " || d.Sample.IsZero() {", " {"},
	{"wrong-method", "domain/wipe.go", `d.Method == "" || !strings.HasPrefix(d.Method, prefix) {`, `d.Method == "" && strings.HasPrefix(prefix, "overwrite") {`},
	{"nobody-looked-at-the-host", "domain/wipe.go", "	if whole && !kept {", "	if whole && !kept && s.Condemned {"},
	{"two-wipes-of-one-slot", "domain/report.go", "s.State == SlotIsWiping {\n			p.Desired.Wipes", "s.State == SlotIsWiping && s.Attempt == 0 {\n			p.Desired.Wipes"},

	// Reports.
	{"failed-again", "domain/vmreport.go", "\tif v.State == Stopped && !broken && w.LogicLevel >= 2 {\n\t\treturn nil, nil // said again by a host that does not remember it, or too late\n\t}\n\tif ran && !r.Theirs && !broken && (v.Power == PowerOn || w.LogicLevel >= 2) {\n", "\tif ran && v.Power == PowerOn && !r.Theirs && !broken {\n"},
	{"report-again", "domain/report.go", "r.Number <= h.Acked:\n\t\treturn nil, nil // a repeat\n\tcase r.Journal != h.Journal && slices.Contains(h.ended, r.Journal): // one that had ended may be the newest again, by its account\n\t\treturn outOfTurn(Errorf(Conflict, \"report.old_journal\", \"the journal has ended: another one of this host was heard of since\"))\n\tcase r.Journal == h.Journal && r.Number != h.Acked+1, ", "r.Number < h.Acked:\n\t\treturn nil, nil // a repeat\n\tcase r.Journal != h.Journal && slices.Contains(h.ended, r.Journal): // one that had ended may be the newest again, by its account\n\t\treturn outOfTurn(Errorf(Conflict, \"report.old_journal\", \"the journal has ended: another one of this host was heard of since\"))\n\tcase r.Journal == h.Journal && r.Number > h.Acked+1, "},
	{"ended-journal-goes-on", "domain/report.go", "	case r.Journal != h.Journal && slices.Contains(h.ended, r.Journal):", "	case r.Journal != h.Journal && slices.Contains(h.ended, r.Journal) && r.Number > 1:"},
	{"report-skipped", "domain/report.go", "r.Number != h.Acked+1, ", "r.Number < h.Acked, "},
	{"vm-of-another-boot", "domain/vmreport.go", "	if r.Boot != v.Boot {", "	if r.Boot > v.Boot {"},
	{"billed-from-the-future", "domain/claim.go", "	at = min(max(at, v.Placed), now)", "	at = max(at, v.Placed)"},
	{"removed-while-it-runs", "domain/vmreport.go", "	if v.State < Releasing {\n		return nil, Errorf(Conflict, \"report.not_releasing\"", "	if v.State < Starting {\n		return nil, Errorf(Conflict, \"report.not_releasing\""},
	{"ended-with-the-first-vm", "domain/vmreport.go", "		if other != row && w.vms.row(other).State != Released {", "		if other != row && w.vms.row(other).State < Releasing {"},

	// Apply.
	{"generation-stays", "domain/allocation.go", "			s.Generation++\n", "			s.Generation = max(s.Generation, 1)\n"},
	{"placed-without-a-touch", "domain/allocation.go", "		w.touch(h)\n", "		w.markDirty(h)\n"},
	{"wipe-without-a-touch", "domain/wipe.go", "		w.timers.add(ws.Deadline, timerWipe, row)\n	}\n	w.touchHostSlots(e.Host)", "		w.timers.add(ws.Deadline, timerWipe, row)\n	}"},
	{"stopped-stays-on", "domain/vm.go", "v.State, v.Deadline, v.Power, v.Ready, v.Alive = Stopped, 0, PowerOff, false, false", "v.State, v.Deadline, v.Ready, v.Alive = Stopped, 0, false, false"},
	{"start-without-a-boot", "domain/power.go", "		if v.State == Stopped {\n			v.Boot++", "		if v.State == Stopped {\n			v.Boot += 0"},
	{"wiped-slot-is-not-indexed", "domain/wipe.go", "	s.State, s.Deadline, s.Attempt, s.Dirty = SlotIsAvailable, 0, 0, false\n	w.touchHostSlots(e.Host)", "	s.State, s.Deadline, s.Attempt, s.Dirty = SlotIsAvailable, 0, 0, false\n	w.touch(w.hosts.get(e.Host))"},
	{"removed-vm-keeps-its-slot", "domain/vm.go", "		if s := w.slots.row(i); s.vm == row {", "		if s := w.slots.row(i); s.vm == row && s.State == SlotIsActive {"},
	{"gpus-of-one-vm-are-given-back", "domain/release.go", "	t.GPUs -= gpus\n", "	t.GPUs -= a.Shape\n"},

	// Time.
	{"outage-takes-the-deadline", "domain/world.go", "			w.timers.add(v.Deadline, timerVM, row)", ""},
	{"wipe-never-late", "domain/timer.go", "		return s.State == SlotIsWiping && s.Deadline == t.at", "		return s.State == SlotIsAvailable && s.Deadline == t.at"},
	{"dependent-deadlines-in-one-tick", "domain/timer.go", "\tif before, seen := k.last[tenant]; seen && (before != t.kind || t.kind != timerCapture && t.kind != timerBill) {\n\t\treturn false\n\t}\n\tif alloc != none && t.kind != timerCapture && k.allocs[alloc] {\n\t\treturn false\n\t}\n", ""},
	{"late-vm-is-forgotten", "domain/timer.go", "	c.Deadline = k.x.At.Add(Hour)\n", ""},
	{"time-goes-back", "commands/core.go", "		c.open.at = max(now, c.world.At)", "		c.open.at = now"},

	// Money.
	{"burns-what-is-not-there", "domain/purse.go", "		n := min(amount, l.balance)", "		n := amount"},
	{"first-hour-twice", "domain/purse.go", "		if !v.Captured {\n			continue\n		}", ""},
	{"hold-given-back-whole", "domain/purse.go", "	used := a.Hold - left ", "	used := left - left "},
	{"floor-in-the-middle", "domain/accrual.go", "			if from > at {\n				sum -=", "			if from < at {\n				sum -="},
	{"ended-line-is-not-repriced", "domain/accrual.go", "	if !free && a.LockedRate < 0 && v.BillEnd > v.BillStart {", "	if !free && a.LockedRate < 0 && v.BillEnd < v.BillStart {"},
	{"late-price-beyond-what-is-posted", "domain/lateprice.go", "				posted := min(line.end, to)", "				posted := to"},
	{"the-book-beats-the-tenants-price", "domain/sku.go", "			continue\n		}\n		rate, since", "		}\n		rate, since"},
	{"hold-parts-stay", "domain/ledger.go", "		a.parts = nil\n", ""},
	{"month-is-not-split", "domain/period.go", "return firstOfNextMonth(t)", "return firstOfNextMonth(t).Add(Day)"},

	// Recovery.
	{"damaged-snapshot", "commands/snapshots.go", "; !bytes.Equal(sum[:], b[:sha256.Size]) {", "; !bytes.Equal(sum[:], b[:32]) && len(b) < 64 {"},
	{"rebuilt-without-captures", "domain/rebuild.go", "			w.timers.add(v.BillStart.Add(firstHour), timerCapture, row)", ""},
	{"rebuilt-without-the-count", "domain/rebuild.go", "			t.captured++", ""},
	{"rebuilt-without-quotas", "domain/rebuild.go", "		prj.GPUs += gpus\n", ""},
	{"rebuilt-without-places", "domain/rebuild.go", "			w.vms.row(vi).hostAt = uint32(at)", "			w.vms.row(vi).hostAt = 0 * uint32(at)"},
	{"snapshot-without-attempts", "domain/snapshotrows.go", "	uintField(c, 10, &s.Attempt)\n", ""},
	{"snapshot-without-the-condemned", "domain/snapshotrows.go", "	c.bool(15, &s.Condemned)\n", ""},
	{"snapshot-without-captures", "domain/snapshotrows.go", "	c.bool(15, &v.Captured)\n", ""},
	{"snapshot-without-journals", "domain/snapshotrows.go", "	c.uvar(19, &h.Acked)\n", ""},
	{"snapshot-without-command-ids", "domain/snapshot.go", "	msgs(c, 2, &m.entries)\n", ""},

	// The group.
	{"numbers-in-a-group", "commands/core.go", "Number: c.world.Number + 1 + uint64(i), Body: e}", "Number: c.world.Number + 1, Body: e}"},
	{"head-stays", "commands/core.go", "	c.world.End(h)\n", ""},
	{"placements-stay", "commands/core.go", "			out.Placements = append(out.Placements, p)", "			out.Placements = append(out.Placements[:0], p)"},
	{"buffer-in-flight-is-filled-again", "commands/core.go", "	c.open = group{}", "	c.open, c.spare = group{}, b"},
	{"group-without-an-end", "commands/core.go", "	c.Head.Hash = sha256.Sum256(c.Commit)", "	c.Head.Hash = sha256.Sum256(nil)"},

	// The fence.
	{"older-generation", "hostd/journal/fence.go", "	case d.Generation < s.Generation:\n		return s, Stale", "	case d.Generation+1 < s.Generation:\n		return s, Stale"},
	{"generation-is-not-kept", "hostd/journal/fence.go", "		s.Generation, s.Digest, s.Account = d.Generation, digest, d.Account", "		s.Digest = digest"},
	{"conflict-ends-with-the-next", "hostd/journal/fence.go", "	case !s.Conflict.IsZero():\n		return s, Conflict\n	case d.Generation < s.Generation:\n		return s, Stale\n	case d.Generation > s.Generation:\n		s.Generation, s.Digest, s.Account = d.Generation, digest, d.Account", "	case d.Generation < s.Generation:\n		return s, Stale\n	case d.Generation > s.Generation:\n		s.Generation, s.Digest, s.Conflict = d.Generation, digest, domain.Digest{}"},
	{"second-content-is-taken", "hostd/journal/fence.go", "		s.Conflict = digest\n", "		s.Digest = digest\n"},

	// The plan.
	{"starts-in-a-slot-to-be-wiped", "hostd/plan/plan.go", "		if p.erase[l.Index] {\n			return false\n		}\n", ""},
	{"starts-on-a-used-drive", "hostd/plan/plan.go", "dirty && by != v.VM && !p.erase[l.Index] {", "dirty && by == v.VM && !p.erase[l.Index] {"},
	{"two-in-one-slot", "hostd/plan/plan.go", "		if p.claims[l.Index] > 1 {", "		if p.claims[l.Index] > 2 {"},
	{"wiped-with-the-vms-data", "hostd/plan/plan.go", "dirty && p.placed[by] > 0 {", "dirty && p.placed[by] > 1 {"},
	{"wipe-before-the-removal", "hostd/plan/plan.go", "		step.After = append(step.After, at)\n	}\n	if at, again", "		_ = at\n	}\n	if at, again"},
	{"wiped-again", "hostd/plan/plan.go", "	if p.s.Wiped[KeyOf(w)] {", "	if p.s.Wiped[KeyOf(w)] && w.Attempt > 0 {"},
	{"reboots-for-ever", "hostd/plan/plan.go", "	case exists && o.Boot >= v.Boot && ", "	case exists && o.Boot > v.Boot && "},
	{"tries-what-was-given-up", "hostd/plan/plan.go", "	case p.s.GivenUp[v.VM] >= v.Boot && v.Boot > 0:", "	case p.s.GivenUp[v.VM] > v.Boot && v.Boot > 0:"},
	{"known-vm-is-not-removed", "hostd/plan/plan.go", "	for id, slots := range p.s.Known {\n		if p.placed[id] == 0 {", "	for id, slots := range p.s.Known {\n		if p.placed[id] > 1 {"},
	{"never-stops", "hostd/plan/plan.go", "		if exists && o.Running {\n			step.Op = Stop", "		if exists && !o.Running {\n			step.Op = Stop"},
	{"on-other-slots", "hostd/plan/plan.go", "	if exists && !sameSlots(o.Slots, slotsOf(v)) {\n		return", "	if exists && len(o.Slots) == 0 {\n		return"},

	// The lost tail.
	{"one-operator-opens-an-epoch", "domain/epoch.go", "	case len(m.Approved) != 2:", "	case len(m.Approved) < 1:"},
	{"the-same-operator-twice", "domain/epoch.go", "		case slices.Contains(e.Approved, p.user):", "		case slices.Contains(e.Keys[:0], key):"},
	{"anybody-opens-an-epoch", "domain/epoch.go", "		case p.platform&RoleOperator == 0:", "		case p.platform&RoleOperator != 0 && p.user.IsZero():"},
	{"epoch-number-comes-again", "domain/epoch.go", "			seen = max(seen, s.Epoch)", "			seen = max(seen, w.Epoch)"},
	{"sold-before-it-accounts", "domain/host.go", " && h.Accounts == 0 && !h.Ahead", " && !h.Ahead"},
	{"sold-while-it-is-ahead", "domain/host.go", " && h.Accounts == 0 && !h.Ahead", " && h.Accounts == 0"},
	{"a-host-that-is-ahead-is-told", "domain/report.go", "	if h.Ahead {", "	if h.Ahead && h.Removed {"},
	{"placed-before-it-accounts", "domain/report.go", "	if h.Accounts != 0 {\n		p.Desired.Account = true", "	if h.Accounts != 0 && len(h.vms) == 0 {\n		p.Desired.Account = true"},
	{"unknown-vm-is-not-kept", "domain/report.go", "		p.Desired.Keep = append(p.Desired.Keep, h.unknown[i].VM)", "		_ = i"},
	{"unknown-vm-holds-no-slot", "domain/account.go", "				a.unknown[row] = true\n", ""},
	{"gone-vm-goes-on", "domain/account.go", "	if v.State >= Releasing || v.Started != 0 {\n		return true", "	if v.State >= Releasing || v.Started != 0 {\n		return v.State >= Releasing"},
	{"generation-below-the-hosts", "domain/account.go", "			slot.Generation = s.Generation\n", ""},
	{"boot-below-the-hosts", "domain/account.go", "			w.vms.get(b.VM).Boot = b.Boot\n", "			_ = b\n"},
	{"used-since-is-not-wiped", "domain/account.go", "		case seen.Generation > s.Generation || ", "		case "},
	{"forgotten-is-not-wiped", "domain/account.go", "(seen.Dirty || a.forgotten(row)) && s.State", "seen.Dirty && s.State"},
	{"rewiped-under-an-unknown-vm", "domain/wipe.go", "	if w.unknownOn(w.slots.find(m.Slot), VMID{}) {", "	if w.unknownOn(w.slots.find(m.Slot), VMID{}) && s.Condemned {"},
	{"kept-vm-is-removed", "hostd/plan/plan.go", "		if !p.kept[id] {", "		if !p.kept[id] || len(slots) > 1 {"},
	{"epoch-is-not-followed", "hostd/journal/fence.go", "	case d.Epoch > s.Epoch:\n		s = Seen{Epoch: d.Epoch, Generation: d.Generation, Digest: digest, Account: d.Account}", "	case d.Epoch > s.Epoch && d.Generation > s.Generation:\n		s = Seen{Epoch: d.Epoch, Generation: d.Generation, Digest: digest, Account: d.Account}"},
	{"epoch-keeps-the-conflict", "hostd/journal/fence.go", "		s = Seen{Epoch: d.Epoch, Generation: d.Generation, Digest: digest, Account: d.Account}", "		s = Seen{Epoch: d.Epoch, Generation: d.Generation, Digest: digest, Account: d.Account, Conflict: s.Conflict}"},

	// What hosts say and what time does, found by a reader of docs/reliability.md.
	{"older-epoch", "hostd/journal/fence.go", "	case d.Epoch < s.Epoch:\n		return s, Stale", "	case d.Epoch+1 < s.Epoch:\n		return s, Stale"},
	{"outruns-by-more", "hostd/journal/fence.go", "p.Acked < acked", "p.Acked+1 < acked"},
	{"ack-is-not-published", "domain/report.go", "	h.Journal, h.Acked = e.Journal, e.Number\n	w.markDirty(h)\n", "	h.Journal, h.Acked = e.Journal, e.Number\n"},
	{"never-expires", "domain/timer.go", "a.Expires == t.at && a.State != 0 && a.State < Releasing", "a.Expires == t.at && a.State < 0"},
	{"first-boot-lost-times-out", "domain/timer.go", "			hasRun = v.State == Starting || v.Boot > 1", "			hasRun = v.State == Starting && v.Boot > 1"},
	{"first-boot-lost-fails", "domain/vmreport.go", "		ran = ran || v.State != Provisioning // lost", "		ran = ran || v.State == Stopping // lost"},
	{"unpaid-runs-on", "domain/timer.go", "if a := w.allocations.row(v.alloc); a.State == Running || a.State == Starting {\n			events", "if a := w.allocations.row(v.alloc); a.State == Starting {\n			events"},
	{"host-fault-takes-one-slot", "domain/report.go", "			events = append(events, w.takeOut(row, \"host\", \"host\", reason)...)\n", "			events = append(events, w.takeOut(row, \"host\", \"host\", reason)...)\n			break\n"},
	{"fault-of-a-used-slot", "domain/report.go", "	return w.takeOut(row, component, scope, reason), nil\n", "	if w.slots.row(row).vm != none {\n		return nil, nil\n	}\n	return w.takeOut(row, component, scope, reason), nil\n"},
	{"lost-placement-accounts", "domain/report.go", "r.Holdings != nil && (w.placed(h, r) || w.LogicLevel < 2)", "r.Holdings != nil"},
	{"snapshot-without-ahead-epoch", "domain/snapshotrows.go", "	uintField(c, 30, &h.AheadEpoch)\n", ""},
	{"two-unknown-on-a-slot", "domain/epoch.go", " || w.unknownOn(row, m.VM) {", " {"},
}
