package api

import (
	"encoding/json"
	"net/url"
	"slices"
	"unicode/utf8"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// DeviceHistory is everything that the site knows of a serial number.
type DeviceHistory struct {
	Serial  string         `json:"serial" doc:"As it was asked for"`
	Devices []KnownDevice  `json:"devices" nullable:"false" doc:"What has the serial: mostly one; the virtual functions, if it is a physical function's"`
	Places  []DevicePlace  `json:"places" nullable:"false" doc:"Where they were, oldest first; on every page"`
	Duties  []WipeDuty     `json:"wipe_duties" nullable:"false" doc:"Of each time one left a slot unwiped, oldest first; on every page"`
	Cut     bool           `json:"cut,omitempty" doc:"There are more than the newest 500 places or duties"`
	Items   []*DeviceLease `json:"items" nullable:"false" doc:"The leases that they served: a place after the other, in each the oldest first"`
	Next    string         `json:"next_cursor,omitempty" doc:"Where the next page of leases begins; left out on the last one"`
}

// KnownDevice is a device as it was last known: a component with its serial.
type KnownDevice struct {
	ID         string `json:"id" doc:"Its serial"`
	CRN        string `json:"crn"`
	Name       string `json:"name" doc:"Its component and serial" example:"nvme/S6ZANA0W"`
	State      string `json:"state" enum:"in_slot,out,destroyed" doc:"out: in no slot that the site knows. destroyed: on the word of two operators"`
	Component  string `json:"component" enum:"gpu,nvme,ib_vf"`
	Model      string `json:"model,omitempty"`
	SerialFrom string `json:"serial_from,omitempty" enum:"device,pci,pf,location" doc:"What vouches for the serial. location: only its place does, so that another device in it is taken for it"`
	WipeOwed   bool   `json:"wipe_owed" doc:"It left a slot unwiped, and neither was it found and wiped since nor destroyed"`
}

// DevicePlace is a device's time in a slot.
type DevicePlace struct {
	Component  string  `json:"component" enum:"gpu,nvme,ib_vf"`
	Serial     string  `json:"serial"`
	SlotID     string  `json:"slot_id"`
	Slot       string  `json:"slot" doc:"The slot's name" example:"r1-h07/3"`
	HostID     string  `json:"host_id"`
	Host       string  `json:"host" doc:"The host's name" example:"r1-h07"`
	Generation uint64  `json:"generation" doc:"The slot's first lease with it"`
	Last       *uint64 `json:"last_generation,omitempty" doc:"The slot's last lease with it; left out while it is there"`
	Since      string  `json:"since" format:"date-time" doc:"When the map with it was approved"`
	Until      string  `json:"until,omitempty" format:"date-time"`
	Cause      string  `json:"cause,omitempty" enum:"replaced,retired" doc:"Of its end: another device took its place, or the slot was retired"`
	Replaced   string  `json:"replaced_serial,omitempty" doc:"The device it came for"`
	ReplacedBy string  `json:"replaced_by_serial,omitempty" doc:"The device that came for it"`
}

// DeviceLease is a lease that a device served, with every wipe of the device after it.
type DeviceLease struct {
	Component    string       `json:"component" enum:"gpu,nvme,ib_vf"`
	Serial       string       `json:"serial"`
	SlotID       string       `json:"slot_id"`
	Slot         string       `json:"slot"`
	HostID       string       `json:"host_id"`
	Generation   uint64       `json:"generation" doc:"Which lease of the slot"`
	TenantID     string       `json:"tenant_id,omitempty" doc:"Left out: nobody's; its wipe is the first of a device that came"`
	AllocationID string       `json:"allocation_id,omitempty"`
	VMID         string       `json:"vm_id,omitempty"`
	StartedAt    string       `json:"started_at" format:"date-time"`
	EndedAt      string       `json:"ended_at,omitempty" format:"date-time"`
	Result       string       `json:"wipe_result,omitempty" enum:"verified,quarantined" doc:"Of the last wipe of the slot; left out: not wiped yet"`
	WipedAt      string       `json:"wiped_at,omitempty" format:"date-time"`
	Wipes        []DeviceWipe `json:"wipes" nullable:"false" doc:"In their order: the last one counts"`
}

// DeviceWipe is the outcome of one wipe of a slot, and its evidence for one device.
type DeviceWipe struct {
	Result     string          `json:"result" enum:"verified,quarantined" doc:"Of the whole slot"`
	Component  string          `json:"component,omitempty" doc:"What could not be proven: perhaps another device of the slot"`
	Reason     string          `json:"reason,omitempty"`
	StartedAt  string          `json:"started_at,omitempty" format:"date-time"`
	EndedAt    string          `json:"ended_at,omitempty" format:"date-time"`
	RecordedAt string          `json:"recorded_at,omitempty" format:"date-time"`
	Nonce      string          `json:"nonce,omitempty"`
	Sequence   uint64          `json:"sequence,omitempty" doc:"The commit it is recorded in"`
	Position   uint32          `json:"position" doc:"Which of that commit's decisions"`
	Device     json.RawMessage `json:"device,omitempty" doc:"The evidence for the device, as in GET /v1/slots/{s}/leases: serial, method, result, canaries, bytes read, firmware. Left out: the wipe ended without word of it"`
	Report     *SignedReport   `json:"report,omitempty" doc:"Only with reports=true: what the host signed"`
}

func (s *Server) deviceRoutes() {
	read(s, route{
		path: "/v1/devices/{serial}", id: "get-device", tag: "Fleet", summary: "A device's history: where it was, whom it served, how it was wiped",
		about: "Of a GPU, a drive, a virtual function, or all virtual functions of a physical one. Components with the same serial are shown together.",
		query: append([]*param{reportsParam}, paging...),
	}, s.getDevice)
}

// maxSerial bounds a serial, in bytes.
const maxSerial = 256

// serial reads a serial of the path: free text, percent-encoded. The router gives a
// parameter as it was sent if the path says more than its plain form, else decoded; it
// takes all that is left of the path, so that a slash may stand for itself.
func (c *call) serial() (string, *domain.Error) {
	s := c.echo.Param("serial")
	if c.echo.Request().URL.RawPath != "" {
		var err error
		if s, err = url.PathUnescape(s); err != nil {
			return "", notFound("device")
		}
	}
	if s == "" || len(s) > maxSerial || !utf8.ValidString(s) {
		return "", notFound("device")
	}
	return s, nil
}

func (s *Server) getDevice(c *call) (*DeviceHistory, *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	serial, err := c.serial()
	if err != nil {
		return nil, err
	}
	signed, err := c.flag("reports")
	if err != nil {
		return nil, err
	}
	o, err := c.listOptions()
	if err != nil {
		return nil, err
	}
	h, err := one(c, func() (projections.DeviceHistory, uint64, error) {
		return s.o.Reads.Device(c.ctx(), c.scope(), serial, o)
	}, func(r *projections.DeviceHistory) *DeviceHistory {
		return s.showDevice(serial, r)
	})
	if err != nil || !signed {
		return h, err
	}
	for _, l := range h.Items {
		for i := range l.Wipes {
			w := &l.Wipes[i]
			if w.Report, err = s.signedReport(c, l.HostID, w.Sequence, w.Position); err != nil {
				return nil, err
			}
		}
	}
	return h, nil
}

func (s *Server) showDevice(serial string, r *projections.DeviceHistory) *DeviceHistory {
	h := &DeviceHistory{
		Serial: serial, Devices: s.knownDevices(r), Places: make([]DevicePlace, len(r.Places)), Duties: make([]WipeDuty, len(r.WipeDuties)), Cut: r.Cut,
		Items: make([]*DeviceLease, len(r.Leases.Items)), Next: r.Leases.NextCursor,
	}
	for i := range r.Places {
		p := &r.Places[i]
		h.Places[i] = DevicePlace{
			Component: p.Component, Serial: p.Serial, SlotID: p.SlotID, Slot: p.Slot, HostID: p.HostID, Host: p.Host, Generation: uint64(p.Generation),
			Since: p.Since.String(), Until: p.Until.String(), Cause: p.Cause, Replaced: p.Replaced, ReplacedBy: p.ReplacedBy,
		}
		if p.LastGeneration != nil {
			last := uint64(*p.LastGeneration)
			h.Places[i].Last = &last
		}
	}
	for i := range r.WipeDuties {
		h.Duties[i] = s.showWipeDuty(&r.WipeDuties[i])
	}
	for i := range r.Leases.Items {
		h.Items[i] = showDeviceLease(&r.Leases.Items[i])
	}
	return h
}

// knownDevices are what places and duties speak of.
func (s *Server) knownDevices(r *projections.DeviceHistory) []KnownDevice {
	out := []KnownDevice{}
	device := func(component, serial string) *KnownDevice {
		i := slices.IndexFunc(out, func(d KnownDevice) bool { return d.Component == component && d.ID == serial })
		if i < 0 {
			i = len(out)
			out = append(out, KnownDevice{ID: serial, CRN: s.crn("", "", component, serial), Name: component + "/" + serial, State: "out", Component: component})
		}
		return &out[i]
	}
	for i := range r.Places {
		p := &r.Places[i]
		d := device(p.Component, p.Serial)
		d.Model, d.SerialFrom = p.Model, p.SerialFrom
		if p.LastGeneration == nil {
			d.State = "in_slot"
		}
	}
	for i := range r.WipeDuties {
		w := &r.WipeDuties[i]
		switch d := device(w.Component, w.Serial); w.State {
		case "owed", "destruction_reported":
			d.WipeOwed = true
		case "destroyed":
			d.State = "destroyed"
		}
	}
	return out
}

func showDeviceLease(r *projections.DeviceLease) *DeviceLease {
	l := &DeviceLease{
		Component: r.Component, Serial: r.Serial, SlotID: r.SlotID, Slot: r.Slot, HostID: r.HostID, Generation: uint64(r.Generation), TenantID: r.TenantID,
		AllocationID: r.AllocationID, VMID: r.VMID, StartedAt: r.StartedAt.String(), EndedAt: r.EndedAt.String(), Result: r.Result, WipedAt: r.WipedAt.String(),
		Wipes: make([]DeviceWipe, len(r.Evidence)),
	}
	for i, raw := range r.Evidence {
		var e struct {
			DeviceWipe
			Devices []json.RawMessage `json:"devices"`
		}
		_ = json.Unmarshal(raw, &e) // written by the projector
		l.Wipes[i] = e.DeviceWipe
		for _, d := range e.Devices {
			var is struct {
				Component string `json:"component"`
			}
			if json.Unmarshal(d, &is) == nil && is.Component == r.Component {
				l.Wipes[i].Device = d
			}
		}
	}
	if n := len(l.Wipes); n > 0 && l.Wipes[n-1].RecordedAt == "" && l.WipedAt != "" { // written by an older build
		l.Wipes[n-1].RecordedAt = l.WipedAt
	}
	return l
}
