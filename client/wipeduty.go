package client

import (
	"context"
	"iter"
	"time"
)

// WipeDuty is a device that left its slot before a wipe of it was verified. The duty
// follows its serial.
type WipeDuty struct {
	ID          string    `json:"id"` // duty_...
	CRN         string    `json:"crn"`
	Name        string    `json:"name"`  // component/serial
	State       string    `json:"state"` // owed, destruction_reported, destroyed, discharged
	Component   string    `json:"component"`
	Serial      string    `json:"serial"`
	SlotID      string    `json:"slot_id"` // that it left
	HostID      string    `json:"host_id"`
	Generation  uint64    `json:"generation"`
	Cause       string    `json:"cause"` // retired, replaced
	Since       time.Time `json:"since"`
	FoundSlotID string    `json:"found_slot_id,omitempty"` // where it was wiped
	FoundHostID string    `json:"found_host_id,omitempty"`
	Fresh       bool      `json:"baseline_fresh,omitempty"` // the host that wiped it had never seen it
	ReportedBy  string    `json:"reported_by_user_id,omitempty"`
	ConfirmedBy string    `json:"confirmed_by_user_id,omitempty"`
	Evidence    string    `json:"evidence,omitempty"`
	ChangedAt   time.Time `json:"changed_at"`
}

// WipeDuties lists them; state may be empty.
func (c *Client) WipeDuties(ctx context.Context, state string, options ...ListOption) iter.Seq2[WipeDuty, error] {
	return list[WipeDuty](ctx, c, "/v1/wipe-duties", queryOf("state", state), options)
}

// ReportDestroyed says that a device was destroyed. It counts when a second operator
// says so too.
func (c *Client) ReportDestroyed(ctx context.Context, duty, evidence string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/wipe-duties/%s/destroyed", duty), map[string]string{"evidence": evidence})
}
