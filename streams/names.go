package streams

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// Names gives every stream and subject of a site. It is the site's name; see
// [ParseSite].
type Names string

var siteName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ParseSite accepts 1 to 32 characters of a-z, 0-9 and "-": the name is a token of
// every subject and part of every stream's name.
func ParseSite(site string) (Names, error) {
	if !siteName.MatchString(site) {
		return "", fmt.Errorf("site %.40q: want 1 to 32 characters of a-z, 0-9 and -", site)
	}
	return Names(site), nil
}

// Log is the stream of commits.
func (n Names) Log() string { return "LOG_" + string(n) }

// Feed is the stream of events.
func (n Names) Feed() string { return "FEED_" + string(n) }

// Placements is the stream of desired states.
func (n Names) Placements() string { return "PLACEMENTS_" + string(n) }

// Reports is the stream of evidence from hosts.
func (n Names) Reports() string { return "REPORTS_" + string(n) }

// Audit is the stream of what was refused.
func (n Names) Audit() string { return "AUDIT_" + string(n) }

// Vault is the stream of encrypted documents.
func (n Names) Vault() string { return "VAULT_" + string(n) }

// VaultKeys is the stream of their wrapped keys: never mirrored.
func (n Names) VaultKeys() string { return "VAULTKEYS_" + string(n) }

// Claim is the stream with the writer claim.
func (n Names) Claim() string { return "CLAIM_" + string(n) }

// Streams are all streams of a site.
func (n Names) Streams() []string {
	return []string{n.Log(), n.Feed(), n.Placements(), n.Reports(), n.Audit(), n.Vault(), n.VaultKeys(), n.Claim()}
}

// LogSubject is the one subject of the log.
func (n Names) LogSubject() string { return "log." + string(n) }

// EventsSubject matches every event of the feed. For the owners and families of a
// narrower one see [Names.OwnerEvents].
func (n Names) EventsSubject() string { return "ev." + string(n) + ".>" }

// tenantFamilies have a tenant as their owner token, hostFamilies a host.
var (
	tenantFamilies = []string{"tenant", "project", "allocation", "ledger", "image"}
	hostFamilies   = []string{"host", "slot"}
)

// OwnerEvents are the filters that select the events of one tenant: the families
// whose owner token is a tenant.
func (n Names) OwnerEvents(tenant domain.TenantID) []string {
	return n.families(tenantFamilies, tenant.String())
}

// HostEvents are the filters that select the events of one host and its slots.
func (n Names) HostEvents(host domain.HostID) []string {
	return n.families(hostFamilies, host.String())
}

func (n Names) families(families []string, owner string) []string {
	out := make([]string, len(families))
	for i, family := range families {
		out[i] = "ev." + string(n) + "." + family + "." + owner + ".>"
	}
	return out
}

var eventType = regexp.MustCompile(`^([a-z_]+)\.([a-z_]+|\*)$`)

// TypeEvents are the filters that select the events of some types
// ("allocation.placed"; "allocation.*" is a family) of one tenant, of one host and
// its slots, or (zero) of all. Types that are not theirs select nothing; if no
// filter is left the answer is empty, which must not be read as everything.
func (n Names) TypeEvents(tenant domain.TenantID, host domain.HostID, types []string) []string {
	var owner string
	var families []string // nil: all
	switch {
	case !tenant.IsZero():
		owner, families = tenant.String(), tenantFamilies
	case !host.IsZero():
		owner, families = host.String(), hostFamilies
	}
	var out []string
	whole := map[string]bool{} // the server refuses filters that overlap
	for _, t := range types {
		if m := eventType.FindStringSubmatch(t); m != nil && m[2] == "*" && !whole[m[1]] && (families == nil || slices.Contains(families, m[1])) {
			whole[m[1]] = true
			out = append(out, strings.Join(nonEmpty("ev", string(n), m[1], owner, ">"), "."))
		}
	}
	for _, t := range types {
		m := eventType.FindStringSubmatch(t)
		if m == nil || m[2] == "*" || whole[m[1]] || families != nil && !slices.Contains(families, m[1]) {
			continue
		}
		if owner == "" { // of families with an owner, and of those without
			out = append(out, strings.Join([]string{"ev", string(n), m[1], "*", m[2]}, "."))
		}
		out = append(out, strings.Join(nonEmpty("ev", string(n), m[1], owner, m[2]), "."))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func nonEmpty(tokens ...string) []string {
	return slices.DeleteFunc(tokens, func(t string) bool { return t == "" })
}

// HostEvent is the subject of one type of a host's events: "reported".
func (n Names) HostEvent(host domain.HostID, event string) string {
	return "ev." + string(n) + ".host." + host.String() + "." + event
}

// SiteEvent is the subject of one type of the site's own events: "writer_started".
func (n Names) SiteEvent(event string) string { return "ev." + string(n) + ".site." + event }

// PlacementSubject is where a host's desired state is kept.
func (n Names) PlacementSubject(host string) string { return "placement." + string(n) + "." + host }

// ReportSubject is where a host says what happened.
func (n Names) ReportSubject(host, kind string) string {
	return "report." + string(n) + "." + host + "." + kind
}

// HeartbeatSubject is core NATS: not kept.
func (n Names) HeartbeatSubject(host string) string { return "heartbeat." + string(n) + "." + host }

// ImageSubject is where a host asks for image bytes.
func (n Names) ImageSubject(host string) string { return "image." + string(n) + "." + host }

// VaultSubject is where a host asks for the user data of a VM it runs.
func (n Names) VaultSubject(host string) string { return "vault." + string(n) + "." + host }

// ConsoleSubject is where a host serves the consoles of its VMs.
func (n Names) ConsoleSubject(host string) string { return "console." + string(n) + "." + host }

// CommandSubject is where the writer takes commands forwarded by standbys.
func (n Names) CommandSubject() string { return "command." + string(n) }

// AuditSubject is where a kind of audit record goes; kind is one token.
func (n Names) AuditSubject(kind string) string { return "audit." + string(n) + "." + kind }

func (n Names) documentSubject(name string) string { return "document." + string(n) + "." + name }
func (n Names) keySubject(name string) string      { return "documentkey." + string(n) + "." + name }
func (n Names) claimSubject() string               { return "claim." + string(n) }

// ControlSubjects are what the vault and the writer claim publish to.
func (n Names) ControlSubjects() []string {
	return []string{n.documentSubject("*"), n.keySubject("*"), n.claimSubject()}
}

// HostInbox is the prefix of a host's own inbox; nats.CustomInboxPrefix.
func HostInbox(host string) string { return "_INBOX_" + host }

// ControlInbox is the prefix of the control plane's inboxes.
const ControlInbox = "_INBOX_control"

// ReportKinds are the kinds a host may report. They are listed in the stream's
// subjects, so that a hostile host cannot make up subjects without bound.
var ReportKinds = []domain.ReportKind{
	domain.ReportInventory, domain.ReportStarted, domain.ReportAlive, domain.ReportReady, domain.ReportStopped,
	domain.ReportFailed, domain.ReportRemoved, domain.ReportWiped, domain.ReportFaulted,
}

// hostOf reads the host token, the third of a subject, which the server checked
// against the sender's credential.
func hostOf(subject string) (domain.HostID, error) {
	tokens := strings.SplitN(subject, ".", 4)
	if len(tokens) < 3 {
		return domain.HostID{}, fmt.Errorf("subject %.80q has no host", subject)
	}
	id, err := parseHost(tokens[2])
	if err != nil {
		return id, fmt.Errorf("subject %.80q: %w", subject, err)
	}
	return id, nil
}

func parseHost(s string) (id domain.HostID, err error) {
	if err = id.UnmarshalText([]byte(s)); err == nil && id.IsZero() {
		err = fmt.Errorf("no host id")
	}
	return id, err
}
