package projections

import (
	"context"
	"encoding/json"

	"github.com/gpuaas/gpuaas/domain"
)

// wipeOwed notes the serial that the device has in its slot now: the event that
// takes it out follows.
func (b *batch) wipeOwed(x *at, e *domain.WipeOwed) {
	r := b.rows.slots[e.Slot]
	if r == nil {
		b.fail("event %d: no row for slot %s", x.Number, e.Slot)
		return
	}
	const head = `INSERT INTO wipe_duties (id, number, state, component, slot_id, host_id, generation, cause, since, changed_at, serial) `
	args := []any{e.ID.String(), int64(x.Number), e.Component, e.Slot.String(), e.Host.String(), int64(e.Generation), e.Cause, timestamp(x.At)}
	if r.spec == "" { // the table has it
		b.exec(1, head+`SELECT $1, $2, 'owed', $3, $4, $5, $6, $7, $8, $8, coalesce(spec->$3->>'serial', '') FROM slots WHERE id = $4`, args...)
		return
	}
	var spec map[string]json.RawMessage
	var device struct{ Serial string }
	_ = json.Unmarshal([]byte(r.spec), &spec) // encoded by this package
	_ = json.Unmarshal(spec[e.Component], &device)
	b.exec(1, head+`VALUES ($1, $2, 'owed', $3, $4, $5, $6, $7, $8, $8, $9)`, append(args, device.Serial)...)
}

func (b *batch) wipeDischarged(x *at, e *domain.WipeDischarged) {
	b.exec(1, `UPDATE wipe_duties SET state = 'discharged', found_slot_id = $2, found_host_id = $3, changed_at = $4, baseline_fresh = $5 WHERE id = $1`,
		e.ID.String(), e.Slot.String(), e.Host.String(), timestamp(x.At), e.Fresh)
}

func (b *batch) destructionReported(x *at, e *domain.DestructionReported) {
	b.exec(1, `UPDATE wipe_duties SET state = 'destruction_reported', reported_by = $2, evidence = $3, changed_at = $4 WHERE id = $1`,
		e.ID.String(), e.User.String(), e.Evidence, timestamp(x.At))
}

func (b *batch) deviceDestroyed(x *at, e *domain.DeviceDestroyed) {
	b.exec(1, `UPDATE wipe_duties SET state = 'destroyed', confirmed_by = $2, evidence = $3, changed_at = $4 WHERE id = $1`,
		e.ID.String(), e.Second.String(), e.Evidence, timestamp(x.At))
}

// WipeDuty is a device that left its slot before a wipe of it was verified.
type WipeDuty struct {
	Number      int64       `json:"-" db:"number"`
	ID          string      `json:"id" db:"id"`
	State       string      `json:"state" db:"state"` // "owed", "destruction_reported", "destroyed", "discharged"
	Component   string      `json:"component" db:"component"`
	Serial      string      `json:"serial" db:"serial"`
	SlotID      string      `json:"slot_id" db:"slot_id"` // that it left
	HostID      string      `json:"host_id" db:"host_id"`
	Generation  uint32      `json:"generation" db:"generation"` // the slot's last lease with it
	Cause       string      `json:"cause" db:"cause"`
	Since       domain.Time `json:"since" db:"since"`
	FoundSlotID string      `json:"found_slot_id,omitempty" db:"found_slot_id"`
	FoundHostID string      `json:"found_host_id,omitempty" db:"found_host_id"`
	Fresh       bool        `json:"baseline_fresh,omitempty" db:"baseline_fresh"` // the host that wiped it had never seen it
	ReportedBy  string      `json:"reported_by_user_id,omitempty" db:"reported_by"`
	ConfirmedBy string      `json:"confirmed_by_user_id,omitempty" db:"confirmed_by"`
	Evidence    string      `json:"evidence,omitempty" db:"evidence"`
	ChangedAt   domain.Time `json:"changed_at" db:"changed_at"`
}

func (d WipeDuty) place() cursor { return cursor{a: d.Number} }

const selectWipeDuties = `SELECT number, id, state, component, serial, slot_id, host_id, generation, cause, since, found_slot_id,
	found_host_id, baseline_fresh, reported_by, confirmed_by, evidence, changed_at FROM wipe_duties`

// WipeDuties lists wipe duties, those that have ended too.
func (r *Reader) WipeDuties(ctx context.Context, scope Scope, state string, o ListOptions) (page Page[WipeDuty], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requirePlatform(); err != nil {
			return err
		}
		var f filter
		if state != "" {
			f.add("state = ?", state)
		}
		page, err = list[WipeDuty](ctx, v, listWipeDuties, selectWipeDuties, f, []string{"number"}, o)
		return err
	})
	return page, err
}
