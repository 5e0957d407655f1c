package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// Config says which streams a site has.
type Config struct {
	Site     Names
	Replicas int // 1 (embedded) or 3, 5 (a cluster); 0 means 1

	// FeedFirst is the number of the first event of the feed: 1, or more when a feed
	// is rebuilt from the middle of a log. 0 means 1.
	FeedFirst uint64
}

// The bounds of the streams. The log has none: admission stops it at 10% free disk.
const (
	maxReportBytes       = 512 << 10
	maxReportsPerSubject = 4096 // unread reports of one host and kind: then the host waits
	maxPlacementBytes    = 1 << 20
	maxAuditBytes        = 1 << 30
	maxAuditAge          = 90 * 24 * time.Hour
	maxAuditRecord       = 16 << 10
	maxClaimAge          = time.Hour

	// minDuplicates is the shortest duplicate window the server accepts. It is not
	// used: no message here carries a Nats-Msg-Id.
	minDuplicates = 100 * time.Millisecond
)

// wanted is the exact configuration of every stream.
func (c Config) wanted() []jetstream.StreamConfig {
	n := c.Site
	base := func(name, about string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: about, Subjects: subjects,
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
			MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1,
			Replicas: max(c.Replicas, 1), Duplicates: minDuplicates, Compression: jetstream.NoCompression,
		}
	}
	// Not durable at the ack, or its fsyncs would stall the log's. One replica only:
	// the server refuses it on a replicated stream, whose Raft log is synced anyway.
	async := func(s jetstream.StreamConfig) jetstream.StreamConfig {
		if s.Replicas == 1 {
			s.PersistMode = jetstream.AsyncPersistMode
		}
		return s
	}

	log := base(n.Log(), "the commits of the site: the one truth", n.LogSubject())
	log.DenyDelete, log.DenyPurge = true, true
	log.MaxMsgSize = maxMessageBytes

	feed := async(base(n.Feed(), "one message an event, a function of the log", n.EventsSubject()))
	feed.DenyDelete, feed.DenyPurge = true, true
	if c.FeedFirst > 1 {
		feed.FirstSeq = c.FeedFirst
	}

	placements := async(base(n.Placements(), "the desired state of each host", n.PlacementSubject("*")))
	placements.MaxMsgsPerSubject, placements.MaxMsgSize = 1, maxPlacementBytes
	placements.AllowDirect = true // a host reads its own, by subject
	placements.DenyDelete, placements.DenyPurge = true, true

	// A report leaves the stream when it has become a command. A host that reports
	// faster than it is read is refused by itself alone, and keeps its journal.
	reports := async(base(n.Reports(), "evidence from hosts, until it became commands"))
	for _, kind := range ReportKinds {
		reports.Subjects = append(reports.Subjects, n.ReportSubject("*", string(kind)))
	}
	reports.Retention, reports.Discard, reports.DiscardNewPerSubject = jetstream.WorkQueuePolicy, jetstream.DiscardNew, true
	reports.MaxMsgsPerSubject, reports.MaxMsgSize = maxReportsPerSubject, maxReportBytes
	reports.DenyDelete, reports.DenyPurge = true, true

	audit := async(base(n.Audit(), "denials, not-founds, refused reports", n.AuditSubject(">")))
	audit.MaxBytes, audit.MaxAge, audit.MaxMsgSize = maxAuditBytes, maxAuditAge, maxAuditRecord
	audit.DenyDelete, audit.DenyPurge = true, true

	// The second truth: a document is durable before the log names its digest. Its
	// writes are rare, so they may cost an fsync each.
	vault := base(n.Vault(), "documents encrypted under a key per subject", n.documentSubject("*"))
	vault.MaxMsgsPerSubject, vault.MaxMsgSize = 1, MaxDocumentBytes+4096
	vault.DenyDelete, vault.DenyPurge = true, true
	keys := base(n.VaultKeys(), "wrapped data keys: never mirrored, deleting one erases its subject", n.keySubject("*"))
	keys.MaxMsgsPerSubject, keys.MaxMsgSize = 1, 1024
	keys.DenyPurge = true

	claim := async(base(n.Claim(), "which process should write: a hint", n.claimSubject()))
	claim.MaxMsgsPerSubject, claim.MaxMsgSize, claim.MaxAge = 1, 4096, maxClaimAge
	claim.DenyDelete, claim.DenyPurge = true, true

	return []jetstream.StreamConfig{log, feed, placements, reports, audit, vault, keys, claim}
}

// maxMessageBytes bounds a message of the log: a commit and its headers.
const maxMessageBytes = domain.MaxCommitBytes + domain.MaxDecisionBytes + 4096

// insufficientStorage is the server's JSStorageResourcesExceededErr.
const insufficientStorage = 10047

// Setup creates the streams that do not exist, with the administrator's
// connection. What exists is compared, never updated: an update of the log can
// truncate it, whatever its deny flags say. The drifts found are returned; a site
// must not write while there is one on its log.
func Setup(ctx context.Context, admin *nats.Conn, c Config) ([]Drift, error) {
	if _, err := ParseSite(string(c.Site)); err != nil {
		return nil, err
	}
	js, err := jetstream.New(admin)
	if err != nil {
		return nil, err
	}
	for _, want := range c.wanted() {
		_, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = js.CreateStream(ctx, want)
		}
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == insufficientStorage {
			err = fmt.Errorf("%w: NATS needs %d MiB more where it keeps its streams: make room, or give it another disk", err, want.MaxBytes>>20)
		}
		if err != nil {
			return nil, fmt.Errorf("set up stream %s: %w", want.Name, err)
		}
	}
	return CheckConfig(ctx, admin, c)
}

// Repair updates what drifted, stream by stream, with the administrator's
// connection, and returns the drifts that are left. An operator asks for it (a new
// build wants another configuration; somebody changed one). The log and the vault
// are never touched: look at what happened to them first.
func Repair(ctx context.Context, admin *nats.Conn, c Config) ([]Drift, error) {
	js, err := jetstream.New(admin)
	if err != nil {
		return nil, err
	}
	for _, want := range c.wanted() {
		if n := want.Name; n == c.Site.Log() || n == c.Site.Vault() || n == c.Site.VaultKeys() {
			continue
		}
		s, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // Setup's to make
		}
		if err != nil {
			return nil, fmt.Errorf("repair %s: %w", want.Name, err)
		}
		have := s.CachedInfo().Config
		if len(compare(want, have)) == 0 {
			continue
		}
		want.FirstSeq = have.FirstSeq
		if _, err := js.UpdateStream(ctx, want); err != nil {
			return nil, fmt.Errorf("repair %s: %w", want.Name, err)
		}
	}
	return CheckConfig(ctx, admin, c)
}
