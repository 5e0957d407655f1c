package api

import (
	"encoding/json"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Host is a server with GPUs.
type Host struct {
	ID          string `json:"id" example:"host_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN         string `json:"crn"`
	Name        string `json:"name" example:"r1-h07"`
	State       string `json:"state" enum:"enrolled,admitted,proposed,in_service,cordoned,draining,silent,quarantined,removed"`
	Rack        string `json:"rack,omitempty"`
	Leaf        string `json:"leaf,omitempty"`
	Spine       string `json:"spine,omitempty"`
	GPUClass    string `json:"gpu_class,omitempty"`
	MapDigest   string `json:"slot_map_digest,omitempty" doc:"Of the approved map"`
	Proposed    string `json:"proposed_slot_map_digest,omitempty" doc:"Of the map that waits for approval"`
	Slots       int64  `json:"slots"`
	Available   int64  `json:"slots_available" doc:"And could be launched on"`
	InUse       int64  `json:"slots_in_use"`
	Cordoned    bool   `json:"cordoned"`
	Draining    bool   `json:"draining"`
	Faulted     bool   `json:"faulted"`
	SilentSince string `json:"silent_since,omitempty" format:"date-time"`
	EnrolledAt  string `json:"enrolled_at" format:"date-time"`
	AdmittedAt  string `json:"admitted_at,omitempty" format:"date-time"`
	ReportedAt  string `json:"reported_at,omitempty" format:"date-time" doc:"The last report that was recorded"`
	// Health is what the host last said of itself.
	Health *HostHealth `json:"health,omitempty" doc:"Its last heartbeat, if one was heard since the control plane's start"`
	Token  string      `json:"enrolment_token,omitempty" doc:"Shown once: hostd exchanges it for its credential" example:"enr_..."`
}

// HostHealth is a host's last heartbeat: its own words, kept nowhere.
type HostHealth struct {
	LastHeartbeatAt string `json:"last_heartbeat_at" format:"date-time" doc:"When it was heard, by the site's clock"`
	Version         string `json:"version,omitempty" doc:"Of hostd"`
	Generation      uint64 `json:"generation" doc:"The newest desired state it has"`
	Executed        uint64 `json:"executed_generation" doc:"The newest it has carried out"`
	Backlog         uint64 `json:"backlog_reports" doc:"Reports in its journal that the site has not acknowledged"`
	VMs             uint32 `json:"vms" doc:"Running ones"`
	Problem         string `json:"problem,omitempty" doc:"What an operator has to look at: why it stands still, or what it found that is not desired"`
}

type createHost struct {
	_     struct{} `json:"-" additionalProperties:"false"`
	Name  string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"r1-h07"`
	Rack  string   `json:"rack,omitempty" maxLength:"63" example:"r1"`
	Leaf  string   `json:"leaf,omitempty" maxLength:"63"`
	Spine string   `json:"spine,omitempty" maxLength:"63"`
}

type approveMap struct {
	_      struct{}       `json:"-" additionalProperties:"false"`
	Digest string         `json:"digest" minLength:"71" maxLength:"71" example:"sha256:..." doc:"Of the proposal, from GET /v1/hosts/{h}/slot-map"`
	Policy string         `json:"wipe_policy,omitempty" enum:"auto,sanitize,format,overwrite" doc:"For every slot without its own"`
	Slots  []slotOverride `json:"slots,omitempty" maxItems:"64" nullable:"false"`
}

type slotOverride struct {
	_      struct{} `json:"-" additionalProperties:"false"`
	Index  uint32   `json:"index"`
	Policy string   `json:"wipe_policy" enum:"auto,sanitize,format,overwrite"`
}

// ApprovedMap is what an approval brought into being, or changed.
type ApprovedMap struct {
	ID     string         `json:"id" doc:"The host's id"`
	State  string         `json:"state" enum:"approved"`
	Digest string         `json:"digest"`
	Slots  []ApprovedSlot `json:"slots" nullable:"false" doc:"Those that are wiped first: new ones, and those with another device. Empty if the map was approved before"`
}

// ApprovedSlot is a slot that is new, or has another device: it is wiped first.
type ApprovedSlot struct {
	ID     string `json:"id"`
	Index  uint32 `json:"index"`
	State  string `json:"state" enum:"wiping"`
	Policy string `json:"wipe_policy"`
}

// SlotMaps are a host's proposal, which waits for approval, and its approved map.
type SlotMaps struct {
	HostID         string          `json:"host_id"`
	State          string          `json:"state" enum:"none,proposed,approved"`
	ProposalDigest string          `json:"proposal_digest,omitempty" doc:"What an approval names"`
	Proposal       *domain.SlotMap `json:"proposal,omitempty"`
	ProposedAt     string          `json:"proposed_at,omitempty" format:"date-time"`
	ApprovedDigest string          `json:"approved_digest,omitempty"`
	Approved       *domain.SlotMap `json:"approved,omitempty"`
	ApprovedAt     string          `json:"approved_at,omitempty" format:"date-time"`
}

// hostActions are the routes that act on a host, and what they lead to.
var hostActions = []struct {
	path, state, summary string
	action               domain.HostAction
}{
	{"cordon", "cordoned", "No new VMs on this host", domain.HostCordon},
	{"uncordon", "in_service", "End cordon and drain", domain.HostUncordon},
	{"drain", "draining", "No new VMs; what runs is left to end", domain.HostDrain},
	{"confirm-power-off", "quarantined", "An operator's word that nothing runs on a silent host any more: its VMs have failed, billed to the last heartbeat", domain.HostPoweredOff},
}

func (s *Server) hostRoutes() {
	command(s, route{method: "POST", path: "/v1/hosts", id: "create-host", tag: "Fleet", summary: "Enrol a host", about: "Answers with the one-time token that hostd exchanges for its credential.", status: 201}, s.createHost)
	command(s, route{method: "POST", path: "/v1/hosts/{h}/slot-map/approve", id: "approve-slot-map", tag: "Fleet", summary: "Approve a proposed slot map", about: "By the digest of what was looked at. Every slot needs a wipe policy, and is wiped first. The map of a host in service can be changed: slots in use have to stay as they are.", status: 202}, s.approveMap)
	for _, a := range hostActions {
		action(s, route{method: "POST", path: "/v1/hosts/{h}/" + a.path, id: a.path + "-host", tag: "Fleet", summary: a.summary, status: 202}, func(c *call) (*Changed, *domain.Error) {
			m := &domain.ActOnHost{Action: a.action}
			if err := pathID(c, "h", "host", &m.Host); err != nil {
				return nil, c.hidePlatform(err)
			}
			if _, err := c.submit(m); err != nil {
				return nil, err
			}
			return &Changed{ID: m.Host.String(), State: a.state}, nil
		})
	}
	action(s, route{method: "DELETE", path: "/v1/hosts/{h}", id: "remove-host", tag: "Fleet", summary: "Take a host out of the site", about: "All its slots have to be retired. Its credential is revoked: 503 host.not_revoked says that this failed; repeat it."}, s.removeHost)
	read(s, route{path: "/v1/hosts", id: "list-hosts", tag: "Fleet", summary: "List hosts", query: naming}, s.listHosts)
	read(s, route{path: "/v1/hosts/{h}", id: "get-host", tag: "Fleet", summary: "Read a host"}, s.getHost)
	read(s, route{path: "/v1/hosts/{h}/slot-map", id: "get-slot-map", tag: "Fleet", summary: "What a host proposes, and what was approved", about: "Look at it, above all at what is on the disks, before approving its digest."}, s.getSlotMap)
}

// hidePlatform keeps the order of answers that decide has: who may not act on any
// host is told so, whatever the id.
func (c *call) hidePlatform(err *domain.Error) *domain.Error {
	if denied := c.requireOperator(); denied != nil {
		return denied
	}
	return err
}

func (s *Server) createHost(c *call, b *createHost) (*Host, *domain.Error) {
	id, err := c.commandID()
	if err != nil {
		return nil, err
	}
	d, err := c.submit(&domain.EnrollHost{Name: b.Name, Rack: b.Rack, Leaf: b.Leaf, Spine: b.Spine, TokenID: SecretHash(EnrolmentToken(s.o.Secret, id))})
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.HostEnrolled](&d)
	if !ok {
		return nil, errNoEvent("host.enrolled")
	}
	c.location("/v1/hosts/" + e.ID.String())
	return &Host{
		ID: e.ID.String(), CRN: s.crn("", "", "host", e.ID.String()), Name: e.Name, State: "enrolled", Rack: e.Rack, Leaf: e.Leaf, Spine: e.Spine,
		EnrolledAt: d.at.String(), Token: EnrolmentToken(s.o.Secret, d.command),
	}, nil
}

func (s *Server) approveMap(c *call, b *approveMap) (*ApprovedMap, *domain.Error) {
	m := &domain.ApproveMap{}
	if err := pathID(c, "h", "host", &m.Host); err != nil {
		return nil, c.hidePlatform(err)
	}
	if m.Digest.UnmarshalText([]byte(b.Digest)) != nil {
		return nil, invalid("digest", "digest.invalid", "digest: want sha256: and 64 lower-case hex digits")
	}
	if err := wordField("wipe_policy", b.Policy, &m.Policy); err != nil {
		return nil, err
	}
	for _, o := range b.Slots {
		so := domain.SlotOverride{Index: o.Index}
		if err := wordField("slots", o.Policy, &so.Policy); err != nil {
			return nil, err
		}
		m.Slots = append(m.Slots, so)
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	out := &ApprovedMap{ID: m.Host.String(), State: "approved", Digest: b.Digest, Slots: []ApprovedSlot{}}
	if e, ok := eventOf[*domain.MapApproved](&d); ok {
		for _, sl := range e.Slots {
			out.Slots = append(out.Slots, ApprovedSlot{ID: sl.ID.String(), Index: sl.Spec.Index, State: "wiping", Policy: sl.Policy.String()})
		}
	}
	if e, ok := eventOf[*domain.MapAmended](&d); ok {
		for _, sl := range e.Slots {
			if sl.Change == "added" || sl.Change == "replaced" {
				out.Slots = append(out.Slots, ApprovedSlot{ID: sl.ID.String(), Index: sl.Spec.Index, State: "wiping", Policy: sl.Policy.String()})
			}
		}
	}
	return out, nil
}

// removeHost revokes the host's credential when it is durable that the host is
// removed; a repeat revokes it again, and so does every start of the site.
func (s *Server) removeHost(c *call) (*Changed, *domain.Error) {
	m := &domain.RemoveHost{}
	if err := pathID(c, "h", "host", &m.Host); err != nil {
		return nil, c.hidePlatform(err)
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	key := ""
	if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
		key, _ = w.HostKey(m.Host)
		return nil
	}); err != nil {
		return nil, err
	}
	if key != "" {
		if err := s.o.Hosts.Revoke(c.ctx(), m.Host, key); err != nil {
			e := domain.Errorf(domain.Unavailable, "host.not_revoked", "the host is removed, but its credential could not be revoked: repeat this")
			e.Cause = err
			return nil, e
		}
	}
	return &Changed{ID: m.Host.String(), State: "removed"}, nil
}

func (s *Server) listHosts(c *call) (*List[Host], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Host], error) {
		return s.o.Reads.Hosts(c.ctx(), c.scope(), o)
	}, s.showHost)
}

func (s *Server) getHost(c *call) (Host, *domain.Error) {
	var id domain.HostID
	if err := c.fleetID("h", "host", &id); err != nil {
		return Host{}, err
	}
	return one(c, func() (projections.Host, uint64, error) { return s.o.Reads.Host(c.ctx(), c.scope(), id) }, s.showHost)
}

// fleetID reads an id of what belongs to the site: others learn nothing of it.
func (c *call) fleetID(name, what string, id interface{ UnmarshalText([]byte) error }) *domain.Error {
	if err := c.requirePlatform(); err != nil {
		return err
	}
	return pathID(c, name, what, id)
}

// health is what the site heard of a host; nil if it did not.
func (s *Server) health(text string) *HostHealth {
	var id domain.HostID
	if s.o.Heartbeats == nil || id.UnmarshalText([]byte(text)) != nil {
		return nil
	}
	at, b := s.o.Heartbeats.Last(id)
	if at == 0 {
		return nil
	}
	return &HostHealth{
		LastHeartbeatAt: at.String(), Version: b.Version, Generation: b.Generation, Executed: b.Executed, Backlog: b.Backlog, VMs: b.VMs, Problem: b.Drift,
	}
}

func (s *Server) showHost(r *projections.Host) Host {
	return Host{
		Health: s.health(r.ID),
		ID:     r.ID, CRN: s.crn("", "", "host", r.ID), Name: r.Name, State: r.State, Rack: r.Rack, Leaf: r.Leaf, Spine: r.Spine, GPUClass: r.GPUClass,
		MapDigest: r.SlotMap, Proposed: r.ProposedMap, Slots: r.Slots, Available: r.SlotsAvailable, InUse: r.SlotsInUse,
		Cordoned: r.Cordoned, Draining: r.Draining, Faulted: r.Faulted, SilentSince: r.SilentSince.String(),
		EnrolledAt: r.EnrolledAt.String(), AdmittedAt: r.AdmittedAt.String(), ReportedAt: r.ReportedAt.String(),
	}
}

func (s *Server) getSlotMap(c *call) (*SlotMaps, *domain.Error) {
	var id domain.HostID
	if err := c.fleetID("h", "host", &id); err != nil {
		return nil, err
	}
	return one(c, func() (projections.SlotMaps, uint64, error) { return s.o.Reads.SlotMaps(c.ctx(), c.scope(), id) }, showSlotMaps)
}

func showSlotMaps(r *projections.SlotMaps) *SlotMaps {
	m := &SlotMaps{
		HostID: r.HostID, State: "none", ProposalDigest: r.ProposalDigest, Proposal: slotMapOf(r.Proposal), ProposedAt: r.ProposedAt.String(),
		ApprovedDigest: r.ApprovedDigest, Approved: approvedMapOf(r.Approved), ApprovedAt: r.ApprovedAt.String(),
	}
	switch {
	case r.ApprovedDigest != "":
		m.State = "approved"
	case r.ProposalDigest != "":
		m.State = "proposed"
	}
	return m
}

func slotMapOf(raw json.RawMessage) *domain.SlotMap {
	m := &domain.SlotMap{}
	if len(raw) == 0 || json.Unmarshal(raw, m) != nil {
		return nil
	}
	return m
}

// approvedMapOf shows the map that was approved, as it was proposed. The read model
// keeps the event, which has each slot's id and policy beside it.
func approvedMapOf(raw json.RawMessage) *domain.SlotMap {
	var e struct {
		domain.MapApproved
		Beside domain.SlotMap `json:"beside"` // the proposal without its slots
	}
	if len(raw) == 0 || json.Unmarshal(raw, &e) != nil {
		return nil
	}
	m := &e.Beside
	m.GPUClass = e.GPUClass
	for i := range e.Slots {
		m.Slots = append(m.Slots, e.Slots[i].Spec)
	}
	return m
}
