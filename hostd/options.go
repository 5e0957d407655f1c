package hostd

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// Link is the host's line to its site. Every call may fail at any time; the agent
// repeats.
type Link interface {
	// Placements calls fn with the host's latest placement and every later one,
	// until ctx ends or the line breaks.
	Placements(ctx context.Context, fn func(*domain.Placement) error) error
	// Report hands over a signed report; nil means that it is stored durably.
	Report(ctx context.Context, kind domain.ReportKind, signed []byte) error
	// Heartbeat is sent and forgotten.
	Heartbeat(b []byte) error
	// RequestVault asks for a VM's ssh keys and user data.
	RequestVault(ctx context.Context, payload []byte) ([]byte, error)
	// RequestImage asks for a piece of an image.
	RequestImage(ctx context.Context, payload []byte) ([]byte, error)
	// ServeConsole answers requests for consoles with fn until ctx ends; it may return
	// before.
	ServeConsole(ctx context.Context, fn func(ctx context.Context, req []byte) ([]byte, error)) error
}

// Options are what an agent is made of. Host, Site, Dir, Machine, Link and Signer
// are required.
type Options struct {
	Host    domain.HostID
	Site    string
	Dir     string // exists; belongs to this agent alone
	Machine machine.Machine
	Link    Link
	Signer  crypto.Signer // Ed25519

	// Images gives the local file of an image, fetched and verified; see
	// [ImageCache]. nil: the machine needs no images.
	Images func(ctx context.Context, digest domain.Digest) (string, error)
	// KeepImages is told the VMs the host should have, before anything is done for
	// them: images of a tenant's own that none of them has go now. An error keeps
	// everything new from beginning, wipes too. nil: nothing is kept.
	KeepImages func(vms []domain.PlacedVM) error

	Clock   func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: none
	Version string           // "": of the build
	Limits  Limits
	NoSync  bool // do not fsync: for simulated hosts, whose machine is a fiction anyway
}

// Limits bound what the agent waits for and how often it tries. Zero fields take
// the default.
type Limits struct {
	Heartbeat time.Duration // between two, 2 s
	Replan    time.Duration // between two plans when nothing happens, 30 s
	Discover  time.Duration // between two looks at the hardware, 10 min
	Backoff   time.Duration // before the second try of a step, doubled each time, 1 s
	Tries     int           // of a step, 3
	Resend    time.Duration // of reports that nobody acknowledged, doubled up to 32 times, 15 s
	Parallel  int           // chains of steps at once, 16
	Grace     time.Duration // for a guest to power off, 60 s
	Patience  time.Duration // with devices that a VM of before lacks, after a boot of the host, 2 min
	Journal   int64         // bytes of the journal's file, 16 MiB
	Deadlines map[plan.Op]time.Duration
}

var deadlines = map[plan.Op]time.Duration{
	plan.Disk: 30 * time.Minute, // a large image onto eight drives
	plan.Seed: time.Minute, plan.Network: time.Minute, plan.Start: 5 * time.Minute,
	plan.Reboot: time.Minute, plan.Stop: 3 * time.Minute, plan.Remove: 2 * time.Minute,
	plan.Wipe: 24 * time.Hour, // an overwrite of a large drive
}

const (
	observeTimeout  = 10 * time.Second
	discoverTimeout = time.Minute
	reportTimeout   = 10 * time.Second
	requestTimeout  = 30 * time.Second
	lineBackoffMax  = 10 * time.Second
)

func (o *Options) complete() error {
	if o.Host.IsZero() || o.Site == "" || o.Dir == "" || o.Machine == nil || o.Link == nil || o.Signer == nil {
		return errors.New("hostd: Host, Site, Dir, Machine, Link and Signer are required")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = Version()
	}
	l := &o.Limits
	for _, d := range []struct {
		of    *time.Duration
		value time.Duration
	}{
		{&l.Heartbeat, 2 * time.Second},
		{&l.Replan, 30 * time.Second},
		{&l.Discover, 10 * time.Minute},
		{&l.Backoff, time.Second},
		{&l.Resend, 15 * time.Second},
		{&l.Grace, time.Minute},
		{&l.Patience, 2 * time.Minute},
	} {
		if *d.of <= 0 {
			*d.of = d.value
		}
	}
	if l.Tries <= 0 {
		l.Tries = 3
	}
	if l.Parallel <= 0 {
		l.Parallel = 16
	}
	return nil
}

func (l *Limits) deadline(op plan.Op) time.Duration {
	if d := l.Deadlines[op]; d > 0 {
		return d
	}
	if d := deadlines[op]; d > 0 {
		return d
	}
	return time.Minute
}

// Version is the build's version, as heartbeats carry it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && version == "(devel)" {
			version = s.Value[:min(12, len(s.Value))]
		}
	}
	return version
}
