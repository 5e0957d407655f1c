package projections

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// A device is known by its component and serial, wherever it is. Its history is that
// of the slots it was in, for as long as it was there.

// slotDevices are a slot's devices as a map has them; position is the slot's place in
// the map.
type slotDevices struct {
	slot       domain.SlotID
	position   int
	generation uint32 // the slot's first lease with them
	spec       *domain.SlotSpec
}

// placeDevices notes where a map has devices: those of slots that are new, or that
// have another one. What leaves goes before what comes: drives may change places.
func (b *batch) placeDevices(x *at, host domain.HostID, slots []slotDevices) {
	var ordinals, generations []int64
	var ids, components, serials, pfs, models, from []string
	for _, s := range slots {
		for k, d := range [3]*domain.Device{&s.spec.GPU, &s.spec.NVMe, &s.spec.IBVF} {
			if s.generation > 0 {
				b.exec(-1, `UPDATE device_places SET until = $4, until_number = $5, last_generation = $6, cause = 'replaced'
					WHERE slot_id = $1 AND component = $2 AND until IS NULL AND serial <> $3`,
					s.slot.String(), deviceComponents[k], d.Serial, timestamp(x.At), int64(x.Number), int64(s.generation)-1)
			}
			if d.Serial == "" {
				continue
			}
			ordinals = append(ordinals, int64(x.Number)<<8|int64(s.position&63)<<2|int64(k))
			generations = append(generations, int64(s.generation))
			ids, components = append(ids, s.slot.String()), append(components, deviceComponents[k])
			serials, pfs = append(serials, d.Serial), append(pfs, physicalFunction(d))
			models, from = append(models, d.Model), append(from, string(d.SerialFrom))
		}
	}
	if len(ids) == 0 {
		return
	}
	b.exec(-1, `INSERT INTO device_places (ordinal, serial, component, pf, model, serial_from, slot_id, host_id, generation, since)
		SELECT u.ordinal, u.serial, u.component, u.pf, u.model, u.serial_from, u.slot_id, $9, u.generation, $10
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[]) u(ordinal, serial, component, pf, model, serial_from, slot_id, generation)
		ON CONFLICT (slot_id, component) WHERE until IS NULL DO NOTHING`, // it stays where it is
		ordinals, serials, components, pfs, models, from, ids, generations, host.String(), timestamp(x.At))
}

var deviceComponents = [3]string{"gpu", "nvme", "ib_vf"}

// physicalFunction is what a virtual function's serial says of its physical one.
func physicalFunction(d *domain.Device) string {
	if i := strings.LastIndex(d.Serial, "/vf"); i > 0 && d.SerialFrom == domain.SerialOfPF {
		return d.Serial[:i]
	}
	return ""
}

// emptySlot notes that a slot gives up its devices for ever.
func (b *batch) emptySlot(x *at, slot domain.SlotID, generation uint32) {
	b.exec(-1, `UPDATE device_places SET until = $2, until_number = $3, last_generation = $4, cause = 'retired' WHERE slot_id = $1 AND until IS NULL`,
		slot.String(), timestamp(x.At), int64(x.Number), int64(generation))
}

// DeviceHistory is everything that is known of a serial, or of the virtual functions
// of a physical one.
type DeviceHistory struct {
	Places     []DevicePlace // oldest first; the newest maxPlaces
	WipeDuties []WipeDuty    // oldest first; the newest maxPlaces
	Cut        bool          // there were more
	Leases     Page[DeviceLease]
}

// DevicePlace is a device's time in a slot.
type DevicePlace struct {
	Ordinal        int64       `db:"ordinal"`
	Serial         string      `db:"serial"`
	Component      string      `db:"component"`
	Model          string      `db:"model"`
	SerialFrom     string      `db:"serial_from"`
	SlotID         string      `db:"slot_id"`
	Slot           string      `db:"slot"` // its name: host/position
	HostID         string      `db:"host_id"`
	Host           string      `db:"host"`
	Generation     int64       `db:"generation"`      // the slot's first lease with it,
	LastGeneration *int64      `db:"last_generation"` // and its last; nil: it is there
	Since          domain.Time `db:"since"`
	Until          domain.Time `db:"until"`
	Cause          string      `db:"cause"`       // of its end: "replaced", "retired"
	Replaced       string      `db:"replaced"`    // the serial it came for
	ReplacedBy     string      `db:"replaced_by"` // the serial that came for it
}

// DeviceLease is a lease of a slot that had the device then.
type DeviceLease struct {
	Ordinal      int64             `db:"ordinal"` // of the place
	Serial       string            `db:"serial"`
	Component    string            `db:"component"`
	SlotID       string            `db:"slot_id"`
	Slot         string            `db:"slot"`
	HostID       string            `db:"host_id"`
	Generation   int64             `db:"generation"`
	TenantID     string            `db:"tenant_id"` // "": nobody's, for the device's first wipe there
	AllocationID string            `db:"allocation_id"`
	VMID         string            `db:"vm_id"`
	StartedAt    domain.Time       `db:"started_at"`
	EndedAt      domain.Time       `db:"ended_at"`
	Result       string            `db:"wipe_result"`
	WipedAt      domain.Time       `db:"wiped_at"`
	Evidence     []json.RawMessage `db:"evidence"` // of every wipe that ended, in their order
}

func (l DeviceLease) place() cursor { return cursor{l.Ordinal, l.Generation} }

// maxPlaces bounds what a history shows of places and duties.
const maxPlaces = 500

const selectPlaces = `SELECT p.ordinal, p.serial, p.component, p.model, p.serial_from, p.slot_id, h.name || '/' || s.position AS slot, p.host_id, h.name AS host,
	p.generation, p.last_generation, p.since, p.until, p.cause, coalesce(b.serial, '') AS replaced, coalesce(a.serial, '') AS replaced_by
	FROM device_places p JOIN slots s ON s.id = p.slot_id JOIN hosts h ON h.id = p.host_id
	LEFT JOIN device_places b ON b.slot_id = p.slot_id AND b.component = p.component AND b.until_number = p.ordinal >> 8
	LEFT JOIN device_places a ON a.slot_id = p.slot_id AND a.component = p.component AND a.ordinal >> 8 = p.until_number
	WHERE p.serial = $1 OR p.pf = $1 AND p.pf <> '' ORDER BY p.ordinal DESC LIMIT $2`

const selectDeviceLeases = `SELECT p.ordinal, p.serial, p.component, l.slot_id, h.name || '/' || s.position AS slot, l.host_id, l.generation, l.tenant_id, l.allocation_id, l.vm_id,
	l.started_at, l.ended_at, l.wipe_result, l.wiped_at, w.earlier || CASE WHEN l.evidence IS NULL THEN '[]' ELSE jsonb_build_array(l.evidence) END AS evidence
	FROM device_places p JOIN leases l ON l.slot_id = p.slot_id AND l.generation >= p.generation AND (p.last_generation IS NULL OR l.generation <= p.last_generation)
	JOIN slots s ON s.id = l.slot_id JOIN hosts h ON h.id = l.host_id
	CROSS JOIN LATERAL (SELECT coalesce(jsonb_agg(e.evidence ORDER BY e.number), '[]') AS earlier FROM earlier_wipes e WHERE e.slot_id = l.slot_id AND e.generation = l.generation) w`

// Device reads the history of a serial, of whatever component; that of a physical
// function is its virtual functions' (device.not_found). o pages its leases.
func (r *Reader) Device(ctx context.Context, scope Scope, serial string, o ListOptions) (d DeviceHistory, n uint64, err error) {
	serial = storable(serial)
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.platform {
			return notFound("device")
		}
		if d.Places, err = collect[DevicePlace](ctx, v, selectPlaces, serial, maxPlaces+1); err != nil {
			return err
		}
		d.Cut = oldestFirst(&d.Places)
		serials := []string{serial}
		for i := range d.Places {
			if s := d.Places[i].Serial; !slices.Contains(serials, s) {
				serials = append(serials, s)
			}
		}
		if d.WipeDuties, err = collect[WipeDuty](ctx, v, selectWipeDuties+` WHERE serial = ANY($1) ORDER BY number DESC LIMIT $2`, serials, maxPlaces+1); err != nil {
			return err
		}
		d.Cut = oldestFirst(&d.WipeDuties) || d.Cut
		if len(d.Places) == 0 && len(d.WipeDuties) == 0 {
			return notFound("device")
		}
		var f filter
		f.add("(p.serial = ? OR p.pf = ? AND p.pf <> '')", serial, serial)
		d.Leases, err = list[DeviceLease](ctx, v, listDevice, selectDeviceLeases, f, []string{"p.ordinal", "l.generation"}, o)
		return err
	})
	return d, n, err
}

// oldestFirst turns a list that is newest first round, without what is above the bound.
func oldestFirst[T any](list *[]T) (cut bool) {
	if cut = len(*list) > maxPlaces; cut {
		*list = (*list)[:maxPlaces]
	}
	slices.Reverse(*list)
	return cut
}
