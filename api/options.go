package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Decider decides commands and answers questions about the world. commands.Loop
// implements it.
type Decider interface {
	Submit(ctx context.Context, cmd *domain.Command) commands.Reply
	Query(ctx context.Context, actor domain.Actor, f func(w *domain.World, at domain.Time)) (uint64, *domain.Error)
}

// Callers finds who a key belongs to, by the SHA-256 of the whole key.
// commands.Directory implements it.
type Callers interface {
	Caller(secret domain.Digest, now domain.Time) (commands.Caller, bool)
}

// History reads what was decided: a repeated command is answered from it.
type History interface {
	// Decision is the decision at a position of the log, with its command's body,
	// and the time of its commit.
	Decision(ctx context.Context, pos domain.Position) (domain.Decision, domain.Time, error)
}

// FeedEvent is one event of the feed.
type FeedEvent struct {
	Number   uint64 // its number over the whole log
	Commit   uint64 // the commit it stands in
	Type     string // "allocation.placed"
	Resource string // the id of what it is about
	At       domain.Time
	Data     json.RawMessage
}

// FeedFilter selects events: those of one tenant, of one host and its slots, or
// (zero) all; and of these only some types, if Types has any. A follower may leave
// Types out of account: who asks looks again.
type FeedFilter struct {
	Tenant domain.TenantID
	Host   domain.HostID
	Types  []string // "allocation.placed"; "allocation.*" is a family
}

// Follower reads the feed.
type Follower interface {
	// Page returns up to limit events (at most 1000) with numbers above after, and
	// the number to go on after. Fewer than limit: there are no more now.
	Page(ctx context.Context, after uint64, limit int, f FeedFilter) ([]FeedEvent, uint64, error)
	// Subscribe calls fn with every event above after, in order, each once, until
	// ctx ends or fn returns an error.
	Subscribe(ctx context.Context, after uint64, f FeedFilter, fn func(FeedEvent) error) error
	// Last is the number of the newest event, and the commit it stands in.
	Last(ctx context.Context) (number, commit uint64, err error)
}

// Vault keeps what must be erasable. It is durable when Put returns. The error of a
// document that was erased is fs.ErrNotExist.
type Vault interface {
	Put(ctx context.Context, subject string, plaintext []byte) (domain.Digest, error)
	Get(ctx context.Context, digest domain.Digest) ([]byte, error)
}

// AuditRecord is one record of what was not accepted.
type AuditRecord struct {
	Cursor uint64
	Kind   string
	At     time.Time
	Data   json.RawMessage
}

// Audit keeps denials, off the reply path. Record must not block.
type Audit interface {
	Record(kind string, data []byte) bool
	Page(ctx context.Context, after uint64, limit int, kinds ...string) ([]AuditRecord, uint64, error)
}

// Consoles reads a VM's console from its host: up to limit bytes from offset on
// (negative: from that many before the end), and the offset to go on at.
type Consoles interface {
	Read(ctx context.Context, host domain.HostID, vm domain.VMID, offset int64, limit int) (data []byte, next int64, err error)
}

// HostCredentials issues the credential with which a host's key may speak.
type HostCredentials interface {
	Issue(host domain.HostID, natsPublicKey string) (jwt string, err error)
	// Revoke ends it: connections that use it are closed, new ones refused.
	Revoke(ctx context.Context, host domain.HostID, natsPublicKey string) error
}

// Heartbeats are what hosts last said of themselves; processes.Liveness implements it.
type Heartbeats interface {
	// Last is a host's last heartbeat and when it was heard; 0: not since the start.
	Last(host domain.HostID) (domain.Time, domain.Heartbeat)
}

// Options are what a server is made of.
type Options struct {
	Site   string   // the site's name
	Region string   // third word of every resource name (CRN); the site's name if empty
	Vendor string   // the two leading words of it; "core42:aicloud" if empty
	Secret [32]byte // the site secret: one-time secrets and cursors derive from it

	Decider  Decider
	Callers  Callers
	History  History
	Reads    *projections.Reader
	Wait     Progress
	Feed     Follower
	Vault    Vault
	Audit    Audit
	Consoles Consoles
	Hosts    HostCredentials
	Images   Images
	// Heartbeats is nil where nobody listens to hosts.
	Heartbeats Heartbeats

	// Writers is nil where this process always decides. PeerTLS is how the process that
	// does is asked; nil: as the machine trusts.
	Writers Writers
	PeerTLS *tls.Config
	// Folded waits for the world that Decider's questions are answered from; nil: it
	// has everything.
	Folded Waiter

	NATSURL string // what an enrolled host connects to
	NATSCA  string // who signed its certificate, PEM; "": whom the host trusts anyway

	// Ready says what keeps the site from serving, in words; nothing: it is ready.
	Ready func(ctx context.Context) []string
	// Role is this process's part in the site, for /readyz. Nil: it is not said.
	Role func() string
	// Version is shown in the OpenAPI document.
	Version string

	Registry *prometheus.Registry // nil: a registry of its own
	Slog     *slog.Logger         // nil: none
	Clock    func() time.Time     // nil: time.Now
	// Deadline bounds a request, 30 s if zero. Patience is how long read models that are
	// behind are waited for before something is said not to be there, 2 s if zero: whoever
	// polls holds a place in its lane meanwhile. Heartbeat is the pause between two signs
	// of life on an event stream, 15 s if zero.
	Deadline  time.Duration
	Patience  time.Duration
	Heartbeat time.Duration
	// Processors is how many there are to share, as many as Go uses if zero.
	Processors int
}

func (o *Options) defaults() {
	if o.Region == "" {
		o.Region = o.Site
	}
	if o.Vendor == "" {
		o.Vendor = "core42:aicloud"
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Slog == nil {
		o.Slog = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Deadline == 0 {
		o.Deadline = 30 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 2 * time.Second
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.Processors == 0 {
		o.Processors = runtime.GOMAXPROCS(0)
	}
	if o.Version == "" {
		o.Version = "dev"
	}
}
