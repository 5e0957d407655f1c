package client

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"time"
)

// DeviceHistory is everything that a site knows of a serial number.
type DeviceHistory struct {
	Serial  string        `json:"serial"`        // as it was asked for
	Devices []KnownDevice `json:"devices"`       // what has the serial: mostly one
	Places  []DevicePlace `json:"places"`        // where they were, oldest first
	Duties  []WipeDuty    `json:"wipe_duties"`   // of each time one left a slot unwiped, oldest first
	Cut     bool          `json:"cut,omitempty"` // there are more than the newest 500 places or duties
	Items   []DeviceLease `json:"items"`         // the leases that they served: a place after the other, in each the oldest first

	NextCursor string `json:"next_cursor,omitempty"`
}

// KnownDevice is a device as it was last known: a component with its serial.
type KnownDevice struct {
	ID         string `json:"id"` // its serial
	CRN        string `json:"crn"`
	Name       string `json:"name"`      // component/serial
	State      string `json:"state"`     // in_slot, out, destroyed
	Component  string `json:"component"` // gpu, nvme, ib_vf
	Model      string `json:"model,omitempty"`
	SerialFrom string `json:"serial_from,omitempty"` // what vouches for the serial: device, pci, pf, location
	WipeOwed   bool   `json:"wipe_owed"`             // it left a slot unwiped, and neither was wiped since nor destroyed
}

// DevicePlace is a device's time in a slot.
type DevicePlace struct {
	Component      string    `json:"component"`
	Serial         string    `json:"serial"`
	SlotID         string    `json:"slot_id"`
	Slot           string    `json:"slot"` // its name
	HostID         string    `json:"host_id"`
	Host           string    `json:"host"`                      // its name
	Generation     uint64    `json:"generation"`                // the slot's first lease with it,
	LastGeneration *uint64   `json:"last_generation,omitempty"` // and its last; nil: it is there
	Since          time.Time `json:"since"`
	Until          time.Time `json:"until,omitzero"`
	Cause          string    `json:"cause,omitempty"`              // of its end: replaced, retired
	Replaced       string    `json:"replaced_serial,omitempty"`    // the device it came for
	ReplacedBy     string    `json:"replaced_by_serial,omitempty"` // the device that came for it
}

// DeviceLease is a lease that a device served, with every wipe of the device after it.
type DeviceLease struct {
	Component    string       `json:"component"`
	Serial       string       `json:"serial"`
	SlotID       string       `json:"slot_id"`
	Slot         string       `json:"slot"`
	HostID       string       `json:"host_id"`
	Generation   uint64       `json:"generation"`
	TenantID     string       `json:"tenant_id,omitempty"` // empty: nobody's
	AllocationID string       `json:"allocation_id,omitempty"`
	VMID         string       `json:"vm_id,omitempty"`
	StartedAt    time.Time    `json:"started_at"`
	EndedAt      time.Time    `json:"ended_at,omitzero"`
	WipeResult   string       `json:"wipe_result,omitempty"` // of the slot's last wipe: verified, quarantined; empty: not yet
	WipedAt      time.Time    `json:"wiped_at,omitzero"`
	Wipes        []DeviceWipe `json:"wipes"` // in their order: the last one counts
}

// DeviceWipe is the outcome of one wipe of a slot, and its evidence for one device.
type DeviceWipe struct {
	Result     string         `json:"result"`              // of the whole slot: verified, quarantined
	Component  string         `json:"component,omitempty"` // that could not be proven
	Reason     string         `json:"reason,omitempty"`
	StartedAt  time.Time      `json:"started_at,omitzero"`
	EndedAt    time.Time      `json:"ended_at,omitzero"`
	RecordedAt time.Time      `json:"recorded_at,omitzero"`
	Nonce      string         `json:"nonce,omitempty"`
	Sequence   uint64         `json:"sequence,omitempty"` // the commit that recorded it,
	Position   int            `json:"position"`           // and which of its decisions
	Device     *DeviceErasure `json:"device,omitempty"`   // nil: the wipe ended without word of it
	Report     *SignedReport  `json:"report,omitempty"`   // only where reports were asked for
}

// WithReports brings the hosts' signed reports beside the evidence.
func WithReports() ListOption { return func(q url.Values) { q.Set("reports", "true") } }

// Device reads the history of a serial, which is free text: of a GPU, a drive, a
// virtual function, or of all virtual functions of a physical one. All pages of its
// leases are read.
func (c *Client) Device(ctx context.Context, serial string, options ...ListOption) (*DeviceHistory, error) {
	q := url.Values{"limit": {strconv.Itoa(pageItems)}}
	for _, o := range options {
		o(q)
	}
	var whole *DeviceHistory
	for { // ends with the list: a cursor that does not move is an error
		page, err := get[DeviceHistory](ctx, c, path("/v1/devices/%s", serial), q)
		if err != nil {
			return nil, err
		}
		if whole != nil {
			page.Items = append(whole.Items, page.Items...)
		}
		if whole = page; page.NextCursor == "" {
			return whole, nil
		}
		if page.NextCursor == q.Get("cursor") {
			return nil, errors.New("client: the leases of a device go round in circles")
		}
		q.Set("cursor", page.NextCursor)
	}
}
