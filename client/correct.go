package client

import (
	"context"
	"time"
)

// NewCorrection proposes to repair what is wrong in the world.
type NewCorrection struct {
	Field      string `json:"field"` // slot.state, allocation.state, grant.balance_micros, tenant.receivable_micros, host.ahead
	ResourceID string `json:"resource_id"`
	Before     string `json:"before"` // what is there
	After      string `json:"after"`
	Reason     string `json:"reason"` // one word
}

// Correction is one that waits for another operator.
type Correction struct {
	ID         string    `json:"id"` // corr_...
	State      string    `json:"state"`
	Field      string    `json:"field"`
	ResourceID string    `json:"resource_id"`
	Before     string    `json:"before"`
	After      string    `json:"after"`
	Reason     string    `json:"reason"`
	ProposedBy string    `json:"proposed_by_user_id"`
	ExpiresAt  time.Time `json:"expires_at"`
}

// ProposeCorrection proposes one. Nothing changes before another operator approves.
func (c *Client) ProposeCorrection(ctx context.Context, n NewCorrection) (*Correction, error) {
	return post[Correction](ctx, c, "/v1/corrections", n)
}

// ApproveCorrection makes another operator's correction count.
func (c *Client) ApproveCorrection(ctx context.Context, id string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/corrections/%s/approve", id), nil)
}

// WithdrawCorrection takes a proposal back.
func (c *Client) WithdrawCorrection(ctx context.Context, id string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/corrections/%s/withdraw", id), nil)
}

// Corrections are those that wait for another operator.
func (c *Client) Corrections(ctx context.Context) ([]Correction, error) {
	page, err := get[struct {
		Items []Correction `json:"items"`
	}](ctx, c, "/v1/corrections", nil)
	if err != nil {
		return nil, err
	}
	return page.Items, nil
}
