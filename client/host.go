package client

import (
	"context"
	"iter"
	"time"
)

// Host is a server with GPUs.
type Host struct {
	ID             string    `json:"id"` // host_...
	CRN            string    `json:"crn"`
	Name           string    `json:"name"`
	State          string    `json:"state"` // enrolled, admitted, proposed, in_service, cordoned, draining, silent, quarantined
	Rack           string    `json:"rack,omitempty"`
	Leaf           string    `json:"leaf,omitempty"`
	Spine          string    `json:"spine,omitempty"`
	GPUClass       string    `json:"gpu_class,omitempty"`
	SlotMapDigest  string    `json:"slot_map_digest,omitempty"`
	ProposedDigest string    `json:"proposed_slot_map_digest,omitempty"` // waits for approval
	Slots          int       `json:"slots"`
	SlotsAvailable int       `json:"slots_available"`
	SlotsInUse     int       `json:"slots_in_use"`
	Cordoned       bool      `json:"cordoned"`
	Draining       bool      `json:"draining"`
	Faulted        bool      `json:"faulted"`
	SilentSince    time.Time `json:"silent_since,omitzero"`
	EnrolledAt     time.Time `json:"enrolled_at"`
	AdmittedAt     time.Time `json:"admitted_at,omitzero"`
	ReportedAt     time.Time `json:"reported_at,omitzero"`
	EnrolmentToken string    `json:"enrolment_token,omitempty"` // shown once

	Health *HostHealth `json:"health,omitempty"` // its last heartbeat; nil: none since the control plane's start
}

// HostHealth is what a host last said of itself.
type HostHealth struct {
	LastHeartbeatAt    time.Time `json:"last_heartbeat_at"`
	Version            string    `json:"version,omitempty"` // of hostd
	Generation         uint64    `json:"generation"`        // the newest desired state it has
	ExecutedGeneration uint64    `json:"executed_generation"`
	BacklogReports     uint64    `json:"backlog_reports"` // not yet acknowledged by the site
	VMs                uint32    `json:"vms"`             // running
	Problem            string    `json:"problem,omitempty"`
}

// NewHost is a host to be enrolled.
type NewHost struct {
	Name  string `json:"name"`
	Rack  string `json:"rack,omitempty"`
	Leaf  string `json:"leaf,omitempty"`
	Spine string `json:"spine,omitempty"`
}

// Approval approves a slot map by the digest of what was looked at.
type Approval struct {
	Digest     string         `json:"digest"`
	WipePolicy string         `json:"wipe_policy,omitempty"` // auto, sanitize, format, overwrite
	Slots      []SlotOverride `json:"slots,omitempty"`
}

// SlotOverride is a slot's own wipe policy.
type SlotOverride struct {
	Index      int    `json:"index"`
	WipePolicy string `json:"wipe_policy"`
}

// ApprovedMap is what an approval brought into being: slots, which are wiped first.
type ApprovedMap struct {
	ID     string         `json:"id"` // the host's
	State  string         `json:"state"`
	Digest string         `json:"digest"`
	Slots  []ApprovedSlot `json:"slots"`
}

// ApprovedSlot is a new slot.
type ApprovedSlot struct {
	ID         string `json:"id"`
	Index      int    `json:"index"`
	State      string `json:"state"`
	WipePolicy string `json:"wipe_policy"`
}

// HostAction is what an operator does to a host.
type HostAction string

// The host actions.
const (
	Cordon          HostAction = "cordon"            // no new VMs
	Uncordon        HostAction = "uncordon"          // ends cordon and drain
	Drain           HostAction = "drain"             // no new VMs; what runs is left to end
	ConfirmPowerOff HostAction = "confirm-power-off" // an operator's word that nothing runs on a silent host
)

// Hosts lists the fleet.
func (c *Client) Hosts(ctx context.Context, options ...ListOption) iter.Seq2[Host, error] {
	return list[Host](ctx, c, "/v1/hosts", nil, options)
}

// Host reads one.
func (c *Client) Host(ctx context.Context, id string) (*Host, error) {
	return get[Host](ctx, c, path("/v1/hosts/%s", id), nil)
}

// CreateHost enrols a host: the answer has the token that hostd exchanges for its
// credential.
func (c *Client) CreateHost(ctx context.Context, h NewHost) (*Host, error) {
	return post[Host](ctx, c, "/v1/hosts", h)
}

// ApproveSlotMap turns a proposal into slots.
func (c *Client) ApproveSlotMap(ctx context.Context, host string, a Approval) (*ApprovedMap, error) {
	return post[ApprovedMap](ctx, c, path("/v1/hosts/%s/slot-map/approve", host), a)
}

// ActOnHost cordons, uncordons, drains a host, or confirms that it is off.
func (c *Client) ActOnHost(ctx context.Context, host string, do HostAction) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/hosts/%s/%s", host, string(do)), nil)
}

// RemoveHost takes a host out of the site; all its slots have to be retired.
func (c *Client) RemoveHost(ctx context.Context, host string) (*Changed, error) {
	return del[Changed](ctx, c, path("/v1/hosts/%s", host))
}

// Enrolment exchanges a host's one-time token for its credential.
type Enrolment struct {
	Token            string `json:"token"`
	SigningPublicKey string `json:"signing_public_key"` // Ed25519, base64
	NATSPublicKey    string `json:"nats_public_key"`
}

// Enrolled is what a host needs to speak.
type Enrolled struct {
	HostID  string `json:"host_id"`
	Site    string `json:"site"`
	NATSURL string `json:"nats_url"`
	NATSCA  string `json:"nats_ca,omitempty"` // who signed its certificate, PEM
	NATSJWT string `json:"nats_jwt"`
}

// Enroll needs no key: the token is its authentication. The same token with the
// same keys gets the same answer.
func (c *Client) Enroll(ctx context.Context, e Enrolment) (*Enrolled, error) {
	return post[Enrolled](ctx, c, "/v1/enroll", e)
}
