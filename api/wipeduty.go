package api

import (
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// WipeDuty is a device that left its slot before a wipe of it was verified. The duty
// follows its serial.
type WipeDuty struct {
	ID          string `json:"id" example:"duty_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN         string `json:"crn"`
	Name        string `json:"name" doc:"The device: its component and serial" example:"nvme/S6ZANA0W"`
	State       string `json:"state" enum:"owed,destruction_reported,destroyed,discharged" doc:"discharged: found in another slot, and wiped. destruction_reported: one operator said so, another has to"`
	Component   string `json:"component" enum:"gpu,nvme,ib_vf"`
	Serial      string `json:"serial"`
	SlotID      string `json:"slot_id" doc:"The slot that it left"`
	HostID      string `json:"host_id"`
	Generation  uint64 `json:"generation" doc:"The slot's last lease with it"`
	Cause       string `json:"cause" enum:"retired,replaced"`
	Since       string `json:"since" format:"date-time"`
	FoundSlotID string `json:"found_slot_id,omitempty" doc:"Where it was found and wiped"`
	FoundHostID string `json:"found_host_id,omitempty"`
	Fresh       bool   `json:"baseline_fresh,omitempty" doc:"The host that wiped it had never seen it: its firmware and settings are compared from now on with what they were then, whoever had set them"`
	ReportedBy  string `json:"reported_by_user_id,omitempty"`
	ConfirmedBy string `json:"confirmed_by_user_id,omitempty"`
	Evidence    string `json:"evidence,omitempty"`
	ChangedAt   string `json:"changed_at" format:"date-time"`
}

type reportDestroyed struct {
	_        struct{} `json:"-" additionalProperties:"false"`
	Evidence string   `json:"evidence" minLength:"1" maxLength:"128" example:"certificate-2026-117" doc:"Where it can be looked up"`
}

func (s *Server) wipeDutyRoutes() {
	command(s, route{method: "POST", path: "/v1/wipe-duties/{d}/destroyed", id: "report-destroyed", tag: "Fleet", summary: "Say that a device was destroyed", about: "It counts when a second operator says so too.", status: 202}, s.reportDestroyed)
	read(s, route{path: "/v1/wipe-duties", id: "list-wipe-duties", tag: "Fleet", summary: "Devices that left their slots unwiped", query: append([]*param{
		queryParam("state", "Only those in this state.", stringSchema),
	}, paging...)}, s.listWipeDuties)
}

func (s *Server) reportDestroyed(c *call, b *reportDestroyed) (*Changed, *domain.Error) {
	m := &domain.ReportDestroyed{Evidence: b.Evidence}
	if err := pathID(c, "d", "wipe_duty", &m.Duty); err != nil {
		return nil, c.hidePlatform(err)
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	out := &Changed{ID: m.Duty.String(), State: "destruction_reported"}
	if _, ok := eventOf[*domain.DeviceDestroyed](&d); ok {
		out.State = "destroyed"
	}
	return out, nil
}

func (s *Server) listWipeDuties(c *call) (*List[WipeDuty], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.WipeDuty], error) {
		return s.o.Reads.WipeDuties(c.ctx(), c.scope(), c.echo.QueryParam("state"), o)
	}, s.showWipeDuty)
}

func (s *Server) showWipeDuty(r *projections.WipeDuty) WipeDuty {
	return WipeDuty{
		ID: r.ID, CRN: s.crn("", "", "wipe_duty", r.ID), Name: r.Component + "/" + r.Serial, State: r.State, Component: r.Component, Serial: r.Serial, SlotID: r.SlotID, HostID: r.HostID, Generation: uint64(r.Generation),
		Cause: r.Cause, Since: r.Since.String(), FoundSlotID: r.FoundSlotID, FoundHostID: r.FoundHostID, Fresh: r.Fresh, ReportedBy: r.ReportedBy,
		ConfirmedBy: r.ConfirmedBy, Evidence: r.Evidence, ChangedAt: r.ChangedAt.String(),
	}
}
