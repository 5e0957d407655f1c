package projections

import "github.com/gpuaas/gpuaas/domain"

func (b *batch) skuCreated(x *at, e *domain.SKUCreated) {
	b.exec(1, `INSERT INTO skus (id, number, name, shape, gpu_class, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		e.ID.String(), int64(x.Number), e.Name, int64(e.Shape), e.GPUClass, timestamp(x.At))
}

func (b *batch) pricePublished(x *at, e *domain.PricePublished) {
	b.exec(1, `INSERT INTO prices (id, number, sku_id, tenant_id, currency, micros_per_unit_hour, effective_at, recorded_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID.String(), int64(x.Number), e.SKU.String(), e.Tenant.String(), string(e.Currency), int64(e.Micros), timestamp(e.Effective), timestamp(x.At))
}
