package domain

// A writer is the one control-plane process that decides. It begins its term
// with a command of its own, and answers nothing before that is durable.

// LogicLevel is the highest logic level this build decides at. What a level
// changes is decided by w.LogicLevel, so that old history decides as it did:
//
//	1  the first
//	2  late prices are corrected, postings are split at the ends of billing
//	   periods, an operator's key in a tenant that has keys of its own needs a
//	   reason; a host that is found as it was approved withdraws its
//	   proposal; a condemned slot is quarantined as soon as its wipe fails; a gang
//	   takes as few racks as can hold it, and spreads where that is the strategy;
//	   evidence of a wipe of real devices has to be whole; a VM that went down with
//	   its host is lost, not stopped by its guest; one that ran and fails by a
//	   device of its slot is released, and the slot condemned; a guest that is not
//	   believed to be ready is an alarm;
//	   a key ends when its user leaves the tenant; an image with a version tightens
//	   a policy that names the image; the VMs of a host whose power-off is confirmed
//	   are released by ticks; a tenant that has not
//	   paid is stopped allocation by allocation in the order of its VMs' rows; a report
//	   of a journal that ended is refused; usage is held to be posted forward; a
//	   bill begins no earlier than the host's report of it proves; what a stopped VM
//	   said before it was stopped does not make it run; a member that is added by id is
//	   a user whom the site knows; a slot that is retired before its host has said
//	   what it holds leaves drives that are owed a wipe; an account that
//	   cannot be believed leaves no gap in its host's reports; a first hour in two
//	   billing periods that is reported late is followed by the next hour to come; a
//	   VM that has not reached its host, which does not remember the lease before, is
//	   not started there; one that ran, and whose host gives up its boot, keeps its
//	   disk, also while it is being stopped, and when that is said again, or when the log
//	   has lost that it ran; a gang with a VM that never reached a host which forgot is
//	   for nothing; of an account that ends more than a decision may have, the host is
//	   asked again; a host that reports a boot which the log never asked for, or
//	   follows a placement that it never made, is ahead of it.
//	   (In no release yet: until it is, these rules may still change.)
const LogicLevel = 2

// StartWriter begins a writer's term, and raises the log to a level that its build
// can decide at: from then on no older build can write.
type StartWriter struct {
	Site       string `json:"site"`
	Build      string `json:"build"`
	LogicLevel uint32 `json:"logic_level"`
	// Running: the same process wrote until now, and begins a new term only to raise
	// the level. There was no outage.
	Running bool `json:"running,omitempty"`
}

// CommandType implements CommandBody.
func (*StartWriter) CommandType() string { return "writer.start" }

func (m *StartWriter) wire(c *coder) {
	c.str(1, &m.Site)
	c.str(2, &m.Build)
	uintField(c, 3, &m.LogicLevel)
	c.bool(4, &m.Running)
}

// WriterStarted records a term. Outage is how long nobody wrote: liveness and
// wipe deadlines are extended by it, so that a restart of the control plane does
// not declare every host dead.
type WriterStarted struct {
	Site       string   `json:"site"`
	Term       uint64   `json:"term"`
	Build      string   `json:"build"`
	LogicLevel uint32   `json:"logic_level"`
	Outage     Duration `json:"outage_ms"`
}

// EventType implements EventBody.
func (*WriterStarted) EventType() string { return "site.writer_started" }

// Owner implements EventBody.
func (*WriterStarted) Owner() string { return "" }

// Resource implements EventBody.
func (e *WriterStarted) Resource() string { return e.Site }

func (e *WriterStarted) wire(c *coder) {
	c.str(1, &e.Site)
	c.uvar(2, &e.Term)
	c.str(3, &e.Build)
	uintField(c, 4, &e.LogicLevel)
	intField(c, 5, &e.Outage)
}

func (m *StartWriter) decide(w *World, x *Context) ([]EventBody, *Error) {
	if x.Actor.Kind != ActorSystem {
		return nil, notFound("command")
	}
	if w.Site != "" && w.Site != m.Site {
		return nil, Errorf(Conflict, "writer.wrong_site", "this log belongs to site %q, not %q", w.Site, m.Site)
	}
	if m.LogicLevel < w.LogicLevel {
		return nil, Errorf(Conflict, "writer.too_old", "the log is at logic level %d, this build decides up to %d: upgrade it", w.LogicLevel, m.LogicLevel)
	}
	e := &WriterStarted{Site: m.Site, Term: w.Term + 1, Build: m.Build, LogicLevel: max(m.LogicLevel, 1)}
	if w.At != 0 && !m.Running {
		e.Outage = x.At.Sub(w.At)
	}
	return []EventBody{e}, nil
}

func (e *WriterStarted) apply(w *World, x *Applied) {
	w.Site, w.Term, w.LogicLevel = w.word(e.Site), e.Term, e.LogicLevel
	w.extendDeadlines(e.Outage)
	w.addOutage(gap{x.At.Add(-e.Outage), x.At})
}
