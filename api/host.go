package api

import (
	"github.com/gpuaas/gpuaas/domain"
)

// Host is a server with GPUs.
type Host struct {
	ID          string `json:"id" example:"host_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN         string `json:"crn"`
	Name        string `json:"name" example:"r1-h07"`
	State       string `json:"state" enum:"enrolled,admitted,proposed,in_service,cordoned,draining,silent,faulted"`
	Rack        string `json:"rack,omitempty"`
	Leaf        string `json:"leaf,omitempty"`
	Spine       string `json:"spine,omitempty"`
	GPUClass    string `json:"gpu_class,omitempty"`
	MapDigest   string `json:"slot_map_digest,omitempty" doc:"Of the approved map"`
	Cordoned    bool   `json:"cordoned"`
	Draining    bool   `json:"draining"`
	Faulted     bool   `json:"faulted"`
	SilentSince string `json:"silent_since,omitempty" format:"date-time"`
	EnrolledAt  string `json:"enrolled_at" format:"date-time"`
	AdmittedAt  string `json:"admitted_at,omitempty" format:"date-time"`
	ReportedAt  string `json:"reported_at,omitempty" format:"date-time" doc:"The last report that was recorded"`
	Token       string `json:"enrolment_token,omitempty" doc:"Shown once: hostd exchanges it for its credential" example:"enr_..."`
}

type createHost struct {
	_     struct{} `json:"-" additionalProperties:"false"`
	Name  string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" example:"r1-h07"`
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

// ApprovedMap is what an approval brought into being.
type ApprovedMap struct {
	ID     string         `json:"id" doc:"The host's id"`
	State  string         `json:"state" enum:"approved"`
	Digest string         `json:"digest"`
	Slots  []ApprovedSlot `json:"slots" nullable:"false" doc:"Empty if the map was approved before"`
}

// ApprovedSlot is a new slot: it is wiped first.
type ApprovedSlot struct {
	ID     string `json:"id"`
	Index  uint32 `json:"index"`
	State  string `json:"state" enum:"wiping"`
	Policy string `json:"wipe_policy"`
}

// hostActions are the routes that act on a host, and what they lead to.
var hostActions = []struct {
	path, state, summary string
	action               domain.HostAction
}{
	{"cordon", "cordoned", "No new VMs on this host", domain.HostCordon},
	{"uncordon", "in_service", "End cordon and drain", domain.HostUncordon},
	{"drain", "draining", "No new VMs; what runs is left to end", domain.HostDrain},
	{"confirm-power-off", "faulted", "An operator's word that nothing runs on a silent host any more: its VMs have failed, billed to the last heartbeat", domain.HostPoweredOff},
}

func (s *Server) hostRoutes() {
	command(s, route{method: "POST", path: "/v1/hosts", id: "create-host", tag: "Fleet", summary: "Enrol a host", about: "Answers with the one-time token that hostd exchanges for its credential.", status: 201}, s.createHost)
	command(s, route{method: "POST", path: "/v1/hosts/{h}/slot-map/approve", id: "approve-slot-map", tag: "Fleet", summary: "Approve a proposed slot map", about: "By the digest of what was looked at. Every slot needs a wipe policy, and is wiped first.", status: 202}, s.approveMap)
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
	return out, nil
}
