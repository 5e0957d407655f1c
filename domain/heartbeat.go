package domain

// Heartbeat goes over core NATS every few seconds; it is not kept.
type Heartbeat struct {
	Host       HostID
	Journal    JournalID
	At         Time
	Epoch      uint32 // highest desired state seen
	Generation uint64
	Executed   uint64 // generation fully carried out
	Backlog    uint64 // reports not yet acknowledged
	VMs        uint32 // running
	Version    string
	Drift      string // what is observed and not desired, "" if nothing
	From       Head   // the commit of the desired state that it follows; zero: not known
	Refused    Head   // the commit of another content of the same generation, for which it follows neither any more
	Outrun     Head   // the commit of what it was told and does not follow, since it acknowledges less than was acknowledged before
}

func (h *Heartbeat) wire(c *coder) {
	idField(c, 1, &h.Host)
	idField(c, 2, &h.Journal)
	c.time(3, &h.At)
	uintField(c, 4, &h.Epoch)
	c.uvar(5, &h.Generation)
	c.uvar(6, &h.Executed)
	c.uvar(7, &h.Backlog)
	uintField(c, 8, &h.VMs)
	c.str(9, &h.Version)
	c.str(10, &h.Drift)
	c.uvar(11, &h.From.N)
	c.digest(12, &h.From.Hash)
	c.uvar(13, &h.Refused.N)
	c.digest(14, &h.Refused.Hash)
	c.uvar(15, &h.Outrun.N)
	c.digest(lastHeartbeatField, &h.Outrun.Hash)
}

const lastHeartbeatField = 16

// EncodeHeartbeat is the message on heartbeat.<site>.<host>.
func EncodeHeartbeat(h *Heartbeat) []byte { return encodeMessage(h) }

// DecodeHeartbeat reads a heartbeat. Nothing is folded from one, so what a newer hostd has
// put behind the fields that are known here is skipped.
func DecodeHeartbeat(b []byte) (*Heartbeat, error) {
	h := new(Heartbeat)
	c := reading(b, false)
	h.wire(&c)
	c.skipAbove(lastHeartbeatField)
	return h, c.finish()
}
