package api

import (
	"encoding/json"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Lease is a tenant's time on one slot, and the proof that nothing was left there.
type Lease struct {
	SlotID     string          `json:"slot_id"`
	Generation uint64          `json:"generation" doc:"Which lease of the slot"`
	HostID     string          `json:"host_id"`
	VMID       string          `json:"vm_id"`
	StartedAt  string          `json:"started_at" format:"date-time"`
	EndedAt    string          `json:"ended_at,omitempty" format:"date-time"`
	Result     string          `json:"wipe_result,omitempty" enum:"verified,quarantined" doc:"Left out: not wiped yet. quarantined: it could not be proven, and the slot is out of service"`
	WipedAt    string          `json:"wiped_at,omitempty" format:"date-time"`
	Evidence   json.RawMessage `json:"evidence,omitempty" doc:"Nonce, times, the commit it is recorded in, and for each device: serial, method, result, what it reported itself, canaries planted and gone, bytes read, firmware, digest of the baseline it was compared with"`
	Report     *SignedReport   `json:"report,omitempty" doc:"Only with reports=true: what the host signed"`
}

// SignedReport is a host's report of a wipe, as it travelled: whoever has the host's
// key can verify it without this site.
type SignedReport struct {
	Bytes     []byte `json:"bytes" doc:"What is signed: a report in protobuf wire format"`
	Signature []byte `json:"signature" doc:"Ed25519, over bytes"`
	PublicKey []byte `json:"public_key" doc:"The host's"`
}

// Erasure is the proof for an allocation.
type Erasure struct {
	AllocationID string  `json:"allocation_id"`
	Erased       bool    `json:"erased" doc:"Every lease has ended and every device was verified as wiped"`
	Items        []Lease `json:"items" nullable:"false"`
}

func (s *Server) erasureRoutes() {
	read(s, route{path: "/v1/allocations/{a}/erasure", id: "get-erasure", tag: "Allocations", summary: "The proof that nothing is left: every lease with its wipe", query: []*param{reportsParam}}, s.erasure)
}

var reportsParam = queryParam("reports", "true: with the hosts' signed reports.", &huma.Schema{Type: "boolean"})

func showLease(r *projections.Lease) Lease {
	return Lease{
		SlotID: r.SlotID, Generation: uint64(r.Generation), HostID: r.HostID, VMID: r.VMID, StartedAt: r.StartedAt.String(), EndedAt: r.EndedAt.String(),
		Result: r.Result, WipedAt: r.WipedAt.String(), Evidence: r.Evidence,
	}
}

func (s *Server) erasure(c *call) (*Erasure, *domain.Error) {
	var id domain.AllocationID
	if err := pathID(c, "a", "allocation", &id); err != nil {
		return nil, err
	}
	leases, err := all(c, func() ([]projections.Lease, uint64, error) { return s.o.Reads.Erasure(c.ctx(), c.scope(), id) }, showLease)
	if err == nil {
		err = s.proofs(c, leases.Items)
	}
	if err != nil {
		return nil, err
	}
	out := &Erasure{AllocationID: id.String(), Erased: len(leases.Items) > 0, Items: leases.Items}
	for _, l := range leases.Items {
		out.Erased = out.Erased && l.Result == "verified"
	}
	return out, nil
}

// proofs completes leases with the signed reports, if they are asked for, and leaves
// out what is not the caller's to see.
func (s *Server) proofs(c *call, leases []Lease) *domain.Error {
	signed, err := c.flag("reports")
	if err != nil {
		return err
	}
	for i := range leases {
		l := &leases[i]
		if signed && (l.Result == "verified" || c.platform()) {
			var at struct {
				Sequence uint64 `json:"sequence"`
				Position uint32 `json:"position"`
			}
			_ = json.Unmarshal(l.Evidence, &at) // none: not wiped yet
			if l.Report, err = s.signedReport(c, l.HostID, at.Sequence, at.Position); err != nil {
				return err
			}
		}
		if !c.platform() {
			l.Evidence = forTenant(l.Evidence)
		}
	}
	return nil
}

// signedReport finds the report that evidence was made of, by its place in the log.
// Evidence that no report led to (a deadline passed) has none.
func (s *Server) signedReport(c *call, hostID string, sequence uint64, position uint32) (*SignedReport, *domain.Error) {
	var host domain.HostID
	if sequence == 0 || host.UnmarshalText([]byte(hostID)) != nil {
		return nil, nil //nolint:nilerr // evidence of an older form names no report
	}
	d, _, err := s.o.History.Decision(c.ctx(), domain.Position{N: sequence, Index: position})
	if err != nil {
		e := domain.Errorf(domain.Unavailable, "history.unavailable", "the report cannot be read now: try again, or without reports")
		e.Cause = err
		return nil, e
	}
	report, ok := d.Command.Body.(*domain.RecordReport)
	if !ok {
		return nil, nil
	}
	out := &SignedReport{Bytes: report.Report, Signature: report.Signature}
	_, qerr := c.ask(c.actor(), func(w *domain.World, _ domain.Time) *domain.Error {
		out.PublicKey, _ = w.HostSignKey(host)
		return nil
	})
	return out, qerr
}

// forTenant is evidence without what a failed wipe says of the inside of the host:
// its errors in words are the operator's. Codes, serials and what the devices
// reported stay.
func forTenant(raw json.RawMessage) json.RawMessage {
	var e map[string]json.RawMessage
	var devices []domain.DeviceWipe
	if json.Unmarshal(raw, &e) != nil || json.Unmarshal(e["devices"], &devices) != nil {
		return raw
	}
	changed := false
	for i := range devices {
		if d := &devices[i]; d.Result != domain.WipeVerified {
			d.Detail, d.Scope, changed = "", "", true
		}
	}
	if !changed {
		return raw
	}
	e["devices"], _ = json.Marshal(devices) // of types that always encode
	out, _ := json.Marshal(e)
	return out
}
