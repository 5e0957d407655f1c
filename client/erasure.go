package client

import (
	"context"
	"encoding/json"
	"net/url"
	"time"
)

// Lease is a tenant's time on one slot, and the proof that nothing was left there.
type Lease struct {
	SlotID     string          `json:"slot_id"`
	Generation uint64          `json:"generation"`
	HostID     string          `json:"host_id"`
	VMID       string          `json:"vm_id"`
	StartedAt  time.Time       `json:"started_at,omitzero"`
	EndedAt    time.Time       `json:"ended_at,omitzero"`
	WipeResult string          `json:"wipe_result,omitempty"` // verified, quarantined; empty: not yet
	WipedAt    time.Time       `json:"wiped_at,omitzero"`
	Evidence   json.RawMessage `json:"evidence,omitempty"` // see [Lease.Proof]
	Report     *SignedReport   `json:"report,omitempty"`   // only where reports were asked for
}

// SignedReport is a host's report of a wipe, as it travelled.
type SignedReport struct {
	Bytes     []byte `json:"bytes"`      // what is signed: protobuf wire format
	Signature []byte `json:"signature"`  // Ed25519, over Bytes
	PublicKey []byte `json:"public_key"` // the host's
}

// Evidence is what proves, or fails to prove, that a lease's data is gone.
type Evidence struct {
	Result    string          `json:"result"`
	Component string          `json:"component,omitempty"` // that could not be proven
	Reason    string          `json:"reason,omitempty"`
	StartedAt time.Time       `json:"started_at,omitzero"`
	EndedAt   time.Time       `json:"ended_at,omitzero"`
	Nonce     string          `json:"nonce,omitempty"` // the lease's: what the canaries were derived from
	Devices   []DeviceErasure `json:"devices"`
	Sequence  uint64          `json:"sequence"` // the commit that recorded it,
	Position  int             `json:"position"` // and which of its decisions

	RecordedAt time.Time `json:"recorded_at,omitzero"`
}

// DeviceErasure is the evidence for one device, or for what the host itself kept.
type DeviceErasure struct {
	Component string    `json:"component"` // gpu, nvme, ib_vf, host
	Serial    string    `json:"serial"`
	Method    string    `json:"method"`
	Result    string    `json:"result"` // verified, failed, skipped, partial, unknown
	Detail    string    `json:"detail,omitempty"`
	BytesRead uint64    `json:"bytes_read"` // after the erasure
	Reason    string    `json:"reason,omitempty"`
	Scope     string    `json:"scope,omitempty"` // what has to be repaired: device, baseboard, host
	SizeBytes uint64    `json:"size_bytes,omitempty"`
	Coverage  string    `json:"coverage,omitempty"`      // all, sampled
	Sample    string    `json:"sample_digest,omitempty"` // of what was read
	Planted   int       `json:"canaries_planted,omitempty"`
	Gone      int       `json:"canaries_gone,omitempty"`
	Firmware  string    `json:"firmware,omitempty"`
	Approved  string    `json:"approved_firmware,omitempty"`
	Baseline  string    `json:"baseline_digest,omitempty"`
	Fresh     bool      `json:"baseline_fresh,omitempty"` // the host had never seen the device: the baseline is of this wipe
	Log       []string  `json:"log,omitempty"`            // what the device reported, in order
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
}

// Proof reads the evidence; nil if the lease was not wiped yet.
func (l *Lease) Proof() (*Evidence, error) {
	if len(l.Evidence) == 0 {
		return nil, nil
	}
	e := new(Evidence)
	return e, json.Unmarshal(l.Evidence, e)
}

// Erasure is the proof for an allocation: all its leases with their wipes.
type Erasure struct {
	AllocationID string  `json:"allocation_id"`
	Erased       bool    `json:"erased"` // every lease has ended and every device was verified as wiped
	Items        []Lease `json:"items"`
}

// Erasure reads the proof that nothing of an allocation is left.
func (c *Client) Erasure(ctx context.Context, allocation string) (*Erasure, error) {
	return get[Erasure](ctx, c, path("/v1/allocations/%s/erasure", allocation), nil)
}

// SignedErasure is [Client.Erasure] with the hosts' signed reports.
func (c *Client) SignedErasure(ctx context.Context, allocation string) (*Erasure, error) {
	return get[Erasure](ctx, c, path("/v1/allocations/%s/erasure", allocation), url.Values{"reports": {"true"}})
}

// SlotLeases is a slot's history, newest first; generation 0 is its first wipe.
func (c *Client) SlotLeases(ctx context.Context, id string) ([]Lease, error) {
	return items[Lease](ctx, c, path("/v1/slots/%s/leases", id), nil)
}

// SignedSlotLeases is [Client.SlotLeases] with the hosts' signed reports.
func (c *Client) SignedSlotLeases(ctx context.Context, id string) ([]Lease, error) {
	return items[Lease](ctx, c, path("/v1/slots/%s/leases", id), url.Values{"reports": {"true"}})
}
