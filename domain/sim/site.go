package sim

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// site is a site that stands when a schedule begins: made once, by ordinary
// commands, and taken as it is by every schedule of its kind.
type site struct {
	commits  [][]byte
	decoded  []*domain.Commit
	snapshot []byte // as a file: hash and state
	head     domain.Head
	at       domain.Time
	admin    domain.Actor
	second   domain.Actor // another operator
	tenants  []domaintest.Tenant
	hosts    []*domaintest.Host
	names    []string
	policy   domain.WipePolicy // of hosts that come later
}

const siteName = "sim"

// kinds are the sites: how many slots each host has, and when it begins. Few slots
// make tenants collide; a month ends on the way.
var kinds = []struct {
	slots []int
	at    time.Time
}{
	{[]int{8, 4, 2}, time.Date(2026, 3, 31, 20, 17, 0, 0, time.UTC)},
	{[]int{8, 8}, time.Date(2026, 5, 12, 9, 0, 0, 0, time.UTC)},
	{[]int{2, 2, 1}, time.Date(2026, 6, 30, 23, 1, 0, 0, time.UTC)},
	{[]int{8, 8, 4, 4}, time.Date(2026, 2, 28, 12, 30, 0, 0, time.UTC)},
}

var sites = func() (out []func() *site) {
	for i := range kinds {
		out = append(out, sync.OnceValue(func() *site { return newSite(i) }))
	}
	return out
}()

func newSite(kind int) *site {
	k := kinds[kind]
	t := &site{at: domain.TimeOf(k.at), policy: domain.WipePolicy(1 + kind)}
	core, n := commands.NewCore(domain.NewWorld()), 0
	submit := func(a domain.Actor, b domain.CommandBody) []domain.EventBody {
		n++
		t.at += 100
		cmd := &domain.Command{Actor: a, Body: b, Entropy: domain.Entropy(domain.DigestOf(fmt.Appendf(nil, "site %d %d", kind, n)))}
		cmd.ID = commands.NewCommandID(t.at.Std(), cmd.Entropy)
		r := core.Decide(t.at, cmd)
		if r.Err != nil {
			panic(fmt.Sprintf("%s: %v", b.CommandType(), r.Err))
		}
		if c := core.Close(); c.Commit != nil {
			t.commits = append(t.commits, c.Commit)
		}
		return r.Events
	}
	submit(domain.System, &domain.StartWriter{Site: siteName, Build: "sim", LogicLevel: commands.LogicLevel})
	t.admin = domaintest.Admin(submit, "admin")
	user := domain.UserID{2}
	submit(domain.System, &domain.SetOperator{User: user, Roles: domain.RoleOperator})
	e := submit(domain.System, &domain.CreateAPIKey{User: user, Name: "second", Hash: domain.DigestOf([]byte("second"))})
	t.second = domain.Actor{Kind: domain.ActorKey, Key: e[0].(*domain.APIKeyCreated).ID}
	domaintest.SKUs(submit, t.admin, 2_490_000)
	for i, credit := range []domain.Micros{3_000_000_000, 400_000_000, 40_000_000} {
		t.tenants = append(t.tenants, domaintest.NewTenant(submit, t.admin, fmt.Sprintf("t%d", i), fmt.Sprintf("t%d-0", i), credit))
	}
	for i, slots := range k.slots {
		name := fmt.Sprintf("h%d", i)
		t.names = append(t.names, name)
		t.hosts = append(t.hosts, domaintest.NewHost(submit, t.admin, name, fmt.Sprintf("r%d", i/2), slots))
	}
	t.head = core.World().Head
	t.snapshot = seal(core.World().Encode())
	for _, b := range t.commits {
		c, err := domain.DecodeCommitEvents(b)
		if err != nil {
			panic(err)
		}
		t.decoded = append(t.decoded, c)
	}
	return t
}

// seal is a snapshot as its file has it.
func seal(state []byte) []byte {
	sum := sha256.Sum256(state)
	return append(sum[:], state...)
}

// begin brings everybody to life.
func (s *Sim) begin() {
	s.site = sites[s.cfg.Seed%uint64(len(sites))]()
	s.now = s.site.at.Add(domain.Minute)
	s.trace.hash = 0xcbf29ce484222325
	s.dice = newDice(s.cfg, &s.seen.Faults)
	s.log, s.epoch = &simLog{s: s}, 1
	s.shadow = newShadow(s)
	s.placements, s.drives = map[domain.HostID]*published{}, map[string]*drive{}
	s.clients = &clients{s: s, open: map[*op]bool{}}
	for i, b := range s.site.commits {
		s.log.put(b, s.site.decoded[i])
		s.shadow.commit(s.site.decoded[i])
	}
	s.shadow.checking, s.feed = true, s.site.head
	s.projector = newProjector(s)
	for i, h := range s.site.hosts {
		known := newHost(s, i, s.site.names[i], h)
		for k := range h.Map.Slots {
			known.mem.met[h.Map.Slots[k].NVMe.Serial] = true // they were wiped as the site began
		}
		s.hosts = append(s.hosts, known)
	}
	for i := range 2 {
		p := &process{s: s, id: i, snapshots: []file{{head: s.site.head, bytes: s.site.snapshot}}}
		s.processes = append(s.processes, p)
	}
	s.processes[0].boot()
	for i, t := range s.site.tenants {
		s.tenants = append(s.tenants, newTenant(s, i, t))
	}
	s.operators = newOperators(s)
	for _, h := range s.hosts {
		h.start()
	}
	s.after(domain.Minute, "trouble", 0, s.trouble)
}

// trouble is rolled for every few minutes.
func (s *Sim) trouble() {
	for _, p := range s.processes {
		p.trouble()
	}
	for _, h := range s.hosts {
		h.trouble()
	}
	s.projector.trouble()
	if s.mayLose() && s.dice.happens(LostTail) {
		s.loseTail()
	}
	if s.dice.happens(LogAway) {
		s.log.away = s.now.Add(between(s.dice.work, 2*domain.Second, 3*domain.Minute))
	}
	if !s.dice.calm {
		s.after(between(s.dice.work, 2*domain.Minute, 25*domain.Minute), "trouble", 0, s.trouble)
	}
}
