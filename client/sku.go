package client

import (
	"context"
	"time"
)

// SKU is what can be launched. It fixes the shape and is priced per GPU-hour.
type SKU struct {
	ID        string    `json:"id"` // sku_...
	CRN       string    `json:"crn"`
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Shape     int       `json:"shape"` // GPUs of one VM
	GPUClass  string    `json:"gpu_class,omitempty"`
	Features  []string  `json:"features"` // what its VMs have beyond the plain: secure_boot, vtpm, sev-snp, tdx
	Prices    []Price   `json:"prices"`   // every version there was, is and will be
	CreatedAt time.Time `json:"created_at"`
}

// Price is one version of a price. It never changes; a later one takes its place.
type Price struct {
	ID                string    `json:"id"`
	CRN               string    `json:"crn"`
	Name              string    `json:"name"`  // the currency
	State             string    `json:"state"` // scheduled, effective
	SKUID             string    `json:"sku_id"`
	TenantID          string    `json:"tenant_id,omitempty"` // a tenant's own price
	Currency          string    `json:"currency"`
	MicrosPerUnitHour int64     `json:"micros_per_unit_hour"` // one GPU and hour
	EffectiveAt       time.Time `json:"effective_at"`
	RecordedAt        time.Time `json:"recorded_at,omitzero"`
}

// NewSKU is a SKU to be.
type NewSKU struct {
	Name     string   `json:"name"`
	Shape    int      `json:"shape"` // 1, 2, 4, 8
	GPUClass string   `json:"gpu_class,omitempty"`
	Features []string `json:"features,omitempty"`
}

// NewPrice is a price to be.
type NewPrice struct {
	TenantID          string    `json:"tenant_id,omitempty"`
	Currency          string    `json:"currency"`
	MicrosPerUnitHour int64     `json:"micros_per_unit_hour"`
	EffectiveAt       time.Time `json:"effective_at,omitzero"` // zero: now
}

// Offer is what the caller can launch of one SKU now.
type Offer struct {
	SKUID             string    `json:"sku_id"`
	SKU               string    `json:"sku"`
	Shape             int       `json:"shape"`
	GPUClass          string    `json:"gpu_class,omitempty"`
	Features          []string  `json:"features"`
	Currency          string    `json:"currency"`
	MicrosPerUnitHour int64     `json:"micros_per_unit_hour"`
	EffectiveAt       time.Time `json:"effective_at,omitzero"`
	Quantity          int       `json:"quantity"`           // VMs that can be launched now
	WhyZero           string    `json:"why_zero,omitempty"` // a stable code
}

// SKUs lists the catalog.
func (c *Client) SKUs(ctx context.Context) ([]SKU, error) { return items[SKU](ctx, c, "/v1/skus", nil) }

// SKU reads one.
func (c *Client) SKU(ctx context.Context, id string) (*SKU, error) {
	return get[SKU](ctx, c, path("/v1/skus/%s", id), nil)
}

// CreateSKU needs the platform role operator.
func (c *Client) CreateSKU(ctx context.Context, s NewSKU) (*SKU, error) {
	return post[SKU](ctx, c, "/v1/skus", s)
}

// PublishPrice gives a SKU a price from a time on.
func (c *Client) PublishPrice(ctx context.Context, sku string, p NewPrice) (*Price, error) {
	return post[Price](ctx, c, path("/v1/skus/%s/prices", sku), p)
}

// Offers says what can be launched now. Both may be empty for a tenant's key;
// project counts that project's quota too.
func (c *Client) Offers(ctx context.Context, tenant, project string) ([]Offer, error) {
	return items[Offer](ctx, c, "/v1/offers", queryOf("tenant_id", tenant, "project_id", project))
}
