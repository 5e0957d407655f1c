package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) skuCreated(x *at, e *domain.SKUCreated) {
	b.exec(1, `INSERT INTO skus (id, number, name, shape, gpu_class, features, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.ID.String(), int64(x.Number), e.Name, int64(e.Shape), e.GPUClass, int64(e.Features), timestamp(x.At))
}

func (b *batch) pricePublished(x *at, e *domain.PricePublished) {
	b.exec(1, `INSERT INTO prices (id, number, sku_id, tenant_id, currency, micros_per_unit_hour, effective_at, recorded_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID.String(), int64(x.Number), e.SKU.String(), e.Tenant.String(), string(e.Currency), int64(e.Micros), timestamp(e.Effective), timestamp(x.At))
}

// SKU is a SKU with the prices the scope may see: the book's, and its tenant's own.
type SKU struct {
	ID        string          `json:"id" db:"id"`
	Name      string          `json:"name" db:"name"`
	Shape     uint32          `json:"shape" db:"shape"`
	GPUClass  string          `json:"gpu_class,omitempty" db:"gpu_class"`
	Features  domain.Features `json:"features" db:"features"`
	CreatedAt domain.Time     `json:"created_at" db:"created_at"`
	Prices    []Price         `json:"prices" db:"-"`
}

// Price is one version of a price, per GPU-hour.
type Price struct {
	ID          string      `json:"id" db:"id"`
	SKUID       string      `json:"-" db:"sku_id"`
	TenantID    string      `json:"tenant_id,omitempty" db:"tenant_id"`
	Currency    string      `json:"currency" db:"currency"`
	Micros      int64       `json:"micros_per_unit_hour" db:"micros_per_unit_hour"`
	EffectiveAt domain.Time `json:"effective_at" db:"effective_at"`
	RecordedAt  domain.Time `json:"recorded_at" db:"recorded_at"`
}

// SKUs lists the catalog, by age. It is small: no pages.
func (r *Reader) SKUs(ctx context.Context, scope Scope) (out []SKU, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if out, err = collect[SKU](ctx, v, `SELECT id, name, shape, gpu_class, features, created_at FROM skus ORDER BY number`); err != nil {
			return err
		}
		prices, err := collect[Price](ctx, v, `SELECT id, sku_id, tenant_id, currency, micros_per_unit_hour, effective_at, recorded_at FROM prices
			WHERE $1 OR tenant_id IN ('', $2) ORDER BY sku_id, effective_at, number`, v.platform, v.tenant)
		if err != nil {
			return err
		}
		at := make(map[string]*SKU, len(out))
		for i := range out {
			out[i].Prices = []Price{}
			at[out[i].ID] = &out[i]
		}
		for _, p := range prices {
			if s := at[p.SKUID]; s != nil {
				s.Prices = append(s.Prices, p)
			}
		}
		return nil
	})
	return out, n, err
}
