package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// verb is what a client asks for.
type verb string

const (
	launch     verb = "launch"
	release    verb = "release"
	stopVM     verb = "stop"
	startVM    verb = "start"
	quarantine verb = "quarantine"
	rewipe     verb = "rewipe"
	credit     verb = "credit"
)

// operation is one command of one client, from its first request to its last answer.
type operation struct {
	client int
	verb   verb
	on     string // the allocation or slot; of a launch known from its answer
	slots  []string
	key    domain.Digest // as the log has it

	call, ret time.Duration // since the run began
	requests  int
	unsure    bool // a request before the last one may still be under way
	answered  bool
	status    int
	state     string // what the answer says
	code      string
	seq       uint64

	request       request
	begun, marked int64 // clients.mark when it was asked for, and answered
}

// request is how it is asked for.
type request struct {
	method, path, key string
	body              any
}

func (o *operation) String() string {
	return fmt.Sprintf("client %d: %s %s, %d requests from %v to %v: %d %s%s at commit %d, slots %v", o.client, o.verb, o.on, o.requests, o.call, o.ret, o.status, o.state, o.code, o.seq, o.slots)
}

// accepted reports whether the site said that it did it.
func (o *operation) accepted() bool { return o.answered && o.status < 300 }

// clients are many who ask at once, each through any member of the site.
type clients struct {
	tr    *trial
	began time.Time
	stop  chan struct{}
	wg    sync.WaitGroup
	acked atomic.Int64
	name  string       // of their keys
	mark  func() int64 // how far something is; nil: nothing
	dark  atomic.Bool  // nobody answers any more: what is asked for stays so

	mu      sync.Mutex
	history []*operation
	bad     []string
}

const (
	clientsEach   = 5 // tenants' clients; operators are two more
	liveEach      = 2 // allocations of one client; all of them leave slots to spare
	giveUpAfter   = 4 * time.Minute
	repeatPause   = 30 * time.Millisecond
	operatorPause = 60 * time.Millisecond
)

func (tr *trial) clients(seed uint64) *clients {
	c := tr.newClients("c", time.Now())
	c.start(seed)
	return c
}

func (tr *trial) newClients(name string, began time.Time) *clients {
	return &clients{tr: tr, name: name, began: began, stop: make(chan struct{})}
}

func (c *clients) start(seed uint64) {
	tr, n := c.tr, 0
	for i := range tr.tenants {
		user := tr.userOf(tr.tenants[i].caller)
		for range clientsEach {
			one := &wisher{c: c, n: n, random: rand.New(rand.NewPCG(seed, uint64(n))), key: tr.tenants[i].key, user: user, project: tr.tenants[i].project}
			c.wg.Go(one.rent)
			n++
		}
	}
	op := tr.sites[0].operator()
	user := tr.userOf(op)
	for range 2 {
		one := &wisher{c: c, n: n, random: rand.New(rand.NewPCG(seed, uint64(n))), key: op.key, user: user}
		c.wg.Go(one.operate)
		n++
	}
}

func (tr *trial) userOf(by caller) string {
	var who struct {
		ID string `json:"user_id"`
	}
	by.get("/v1/whoami", &who)
	return who.ID
}

// end lets every client finish what it asked for.
func (c *clients) end() []*operation {
	close(c.stop)
	c.wg.Wait()
	for _, text := range c.bad {
		c.tr.t.Error(text)
	}
	return c.history
}

func (c *clients) ended() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

func (c *clients) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.bad) < 20 {
		c.bad = append(c.bad, fmt.Sprintf(format, args...))
	}
}

// wisher is one of them, with what it wishes for.
type wisher struct {
	c             *clients
	n, asked      int
	random        *rand.Rand
	key, user     string
	project       string
	running, idle []*operation // launches whose VMs run, or were stopped
}

// rent launches, stops, starts and releases until the end.
func (c *wisher) rent() {
	for !c.c.ended() {
		switch n := c.random.IntN(10); {
		case len(c.running)+len(c.idle) == 0, n < 5 && len(c.running)+len(c.idle) < liveEach:
			o := c.ask(launch, "", "POST", "/v1/projects/"+c.project+"/allocations", obj{"sku": "gpu-1x"})
			if o.accepted() {
				c.running = append(c.running, o)
			} else if o.code == "capacity.exhausted" {
				c.wait(operatorPause)
			}
		case n < 6 && len(c.running) > 0:
			c.power(stopVM, &c.running, &c.idle)
		case n < 7 && len(c.idle) > 0:
			c.power(startVM, &c.idle, &c.running)
		case len(c.idle) > 0 && (n < 8 || len(c.running) == 0):
			c.release(&c.idle)
		case len(c.running) > 0:
			c.release(&c.running)
		}
	}
}

func (c *wisher) power(v verb, from, to *[]*operation) {
	i := c.random.IntN(len(*from))
	a := (*from)[i]
	o := c.ask(v, a.on, "POST", "/v1/allocations/"+a.on+"/"+string(v), nil)
	if o.accepted() {
		*from = slices.Delete(*from, i, i+1)
		*to = append(*to, a)
	}
}

func (c *wisher) release(of *[]*operation) {
	i := c.random.IntN(len(*of))
	a := (*of)[i]
	*of = slices.Delete(*of, i, i+1)
	o := c.ask(release, a.on, "DELETE", "/v1/allocations/"+a.on, nil)
	o.slots = a.slots
	if o.answered && !o.accepted() {
		c.c.complain("a release was refused: %v", o)
	}
}

// operate takes slots out of service and brings them back, and gives credit.
func (c *wisher) operate() {
	var out []string
	for !c.c.ended() {
		if n := c.random.IntN(12); n >= 10 {
			te := c.c.tr.tenants[c.random.IntN(len(c.c.tr.tenants))]
			c.ask(credit, te.id, "POST", "/v1/tenants/"+te.id+"/credits", obj{"currency": "USD", "amount_micros": 1_000_000, "kind": "paid"})
		} else if len(out) > 0 && n < 6 {
			i := c.random.IntN(len(out))
			if o := c.ask(rewipe, out[i], "POST", "/v1/slots/"+out[i]+"/rewipe", nil); o.accepted() {
				out = slices.Delete(out, i, i+1)
			}
		} else if s := c.c.tr.slots[c.random.IntN(len(c.c.tr.slots))]; len(out) < liveEach || n == 9 {
			if o := c.ask(quarantine, s, "POST", "/v1/slots/"+s+"/quarantine", obj{"reason": "campaign"}); o.accepted() && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
		c.wait(operatorPause)
	}
}

func (c *wisher) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.c.stop:
	}
}

// ask asks for something until it is answered.
func (c *wisher) ask(v verb, on, method, path string, body any) *operation {
	c.asked++
	key := fmt.Sprintf("%s%d-%d", c.c.name, c.n, c.asked)
	o := &operation{client: c.n, verb: v, on: on, key: domain.DigestOf([]byte(c.user + "|" + key)), call: time.Since(c.c.began), request: request{method, path, key, body}}
	if c.c.mark != nil {
		o.begun = c.c.mark()
	}
	if v == quarantine || v == rewipe {
		o.slots = []string{on}
	}
	c.pursue(o)
	c.c.acked.Add(1)
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	c.c.history = append(c.c.history, o)
	return o
}

// pursue repeats a command with one Idempotency-Key, at one member after another, until
// it is answered.
func (c *wisher) pursue(o *operation) {
	sites := c.c.tr.sites
	first := c.random.IntN(len(sites))
	tick := time.NewTicker(repeatPause)
	defer tick.Stop()
	last := ""
	for deadline := time.Now().Add(giveUpAfter); time.Now().Before(deadline); <-tick.C {
		by := caller{sites[(first+o.requests)%len(sites)], c.key}
		o.requests++
		a, err := by.ask(o.request.method, o.request.path, o.request.body, "Idempotency-Key", o.request.key)
		if err != nil || a.status == 503 || a.status == 429 {
			if c.c.dark.Load() {
				o.unsure = true
				return
			}
			last = fmt.Sprint(err)
			if err == nil {
				last = string(a.body)
			}
			// Surely not decided is only what says so.
			o.unsure = o.unsure || err != nil || a.code != "not_writer" && a.code != "site.starting" && a.code != "site.stopping"
			continue
		}
		o.ret, o.answered, o.status, o.seq, o.code = time.Since(c.c.began), true, a.status, a.seq, a.code
		if c.c.mark != nil {
			o.marked = c.c.mark()
		}
		c.answer(o, a)
		break
	}
	if !o.answered {
		c.c.complain("never answered: %v: %s", o, last)
	}
}

// refusals are the answers that a client of these tests may get besides success.
var refusals = map[verb][]string{
	launch: {"capacity.exhausted"}, stopVM: {"allocation.wrong_state"}, startVM: {"allocation.wrong_state"}, rewipe: {"slot.not_quarantined"},
}

func (c *wisher) answer(o *operation, a *answer) {
	if a.status >= 300 {
		if !slices.Contains(refusals[o.verb], a.code) {
			c.c.complain("%v: %s", o, a.body)
		}
		return
	}
	var got allocation
	if err := json.Unmarshal(a.body, &got); err != nil {
		c.c.complain("%v: %v: %s", o, err, a.body)
		return
	}
	o.state = got.State
	if o.verb == launch {
		o.on = got.ID
		for _, vm := range got.VMs {
			o.slots = append(o.slots, vm.SlotIDs...)
		}
	}
}
