package api

import (
	"github.com/gpuaas/gpuaas/domain"
)

// Correction is a repair of what is wrong in the world. It counts when another operator
// approves it.
type Correction struct {
	ID         string `json:"id" example:"corr_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	State      string `json:"state" enum:"proposed"`
	Field      string `json:"field"`
	ResourceID string `json:"resource_id"`
	Before     string `json:"before"`
	After      string `json:"after"`
	Reason     string `json:"reason"`
	ProposedBy string `json:"proposed_by_user_id"`
	ExpiresAt  string `json:"expires_at" format:"date-time"`
}

// Corrections are those that wait for another operator.
type Corrections struct {
	Items []Correction `json:"items" nullable:"false"`
}

type proposeCorrection struct {
	_          struct{} `json:"-" additionalProperties:"false"`
	Field      string   `json:"field" minLength:"1" maxLength:"64" doc:"slot.state: to quarantined. allocation.state: to released, of one on its way out. grant.balance_micros, tenant.receivable_micros: by a posting. host.ahead: to false" example:"grant.balance_micros"`
	ResourceID string   `json:"resource_id" minLength:"1" maxLength:"64" doc:"Of the slot, allocation, credit, tenant or host" example:"grant_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	Before     string   `json:"before" maxLength:"64" doc:"What is there; anything else is refused" example:"4000000"`
	After      string   `json:"after" maxLength:"64" example:"5000000"`
	Reason     string   `json:"reason" minLength:"1" maxLength:"256" pattern:"^[!-~]+$" patternDescription:"one word of visible characters" example:"ticket-4711"`
}

func (s *Server) correctionRoutes() {
	command(s, route{method: "POST", path: "/v1/corrections", id: "propose-correction", tag: "Site", summary: "Propose to repair what is wrong in the world", about: "Nothing changes before another operator approves, within 24 hours. History is not edited: world.corrected and the events beside it say what was and what is.", status: 201}, s.proposeCorrection)
	action(s, route{method: "POST", path: "/v1/corrections/{c}/approve", id: "approve-correction", tag: "Site", summary: "Approve another operator's correction", status: 202}, s.approveCorrection)
	action(s, route{method: "POST", path: "/v1/corrections/{c}/withdraw", id: "withdraw-correction", tag: "Site", summary: "Take a proposed correction back", status: 202}, s.withdrawCorrection)
	read(s, route{path: "/v1/corrections", id: "list-corrections", tag: "Site", summary: "Corrections that wait for another operator", about: "What became of others is in GET /v1/events?types=world.corrected."}, s.listCorrections)
}

func showCorrection(c *domain.Correction) Correction {
	return Correction{
		ID: c.ID.String(), State: "proposed", Field: c.Field, ResourceID: c.Resource, Before: c.Before, After: c.After, Reason: c.Reason,
		ProposedBy: c.By.String(), ExpiresAt: c.Until.String(),
	}
}

func (s *Server) proposeCorrection(c *call, b *proposeCorrection) (*Correction, *domain.Error) {
	d, err := c.submit(&domain.ProposeCorrection{Field: b.Field, Resource: b.ResourceID, Before: b.Before, After: b.After, Reason: b.Reason})
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.CorrectionProposed](&d)
	if !ok {
		return nil, domain.Errorf(domain.Internal, "internal", "internal error")
	}
	out := showCorrection(&e.Correction)
	return &out, nil
}

func (s *Server) approveCorrection(c *call) (*Changed, *domain.Error) {
	return s.endCorrection(c, false, "corrected")
}

func (s *Server) withdrawCorrection(c *call) (*Changed, *domain.Error) {
	return s.endCorrection(c, true, "withdrawn")
}

func (s *Server) endCorrection(c *call, withdraw bool, state string) (*Changed, *domain.Error) {
	m := &domain.ApproveCorrection{Withdraw: withdraw}
	if err := pathID(c, "c", "correction", &m.Correction); err != nil {
		return nil, c.hidePlatform(err)
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return &Changed{ID: m.Correction.String(), State: state}, nil
}

func (s *Server) listCorrections(c *call) (*Corrections, *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	out := &Corrections{Items: []Correction{}}
	err := c.query(func(w *domain.World, at domain.Time) *domain.Error {
		for _, r := range w.Corrections(at) {
			out.Items = append(out.Items, showCorrection(&r))
		}
		return nil
	})
	return out, err
}
