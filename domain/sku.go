package domain

import (
	"slices"
	"strings"
)

// A SKU fixes the shape (slots of one VM) and is priced per GPU-hour, in
// effective-dated versions that never change.

// SKU is a SKU's state.
type SKU struct {
	ID       SKUID
	Name     string
	Shape    uint32   // slots of one VM: 1, 2, 4 or 8
	GPUClass string   // model class, "" for any
	Features Features // what its VMs have beyond the plain
	prices   []Price
	live     uint32 // allocations billed by it
	usedTo   Time   // latest end of a line that ended
}

// Price is one version: micros per GPU-hour from EffectiveAt on. With a tenant it
// beats the book for that tenant.
type Price struct {
	ID        PriceID
	Tenant    TenantID
	Currency  Currency
	Micros    Micros
	Effective Time
	Recorded  Time
	late      uint32 // number of the late price; 0: it was known in time
}

// CreateSKU makes a SKU.
type CreateSKU struct {
	Name     string   `json:"name"`
	Shape    uint32   `json:"shape"`
	GPUClass string   `json:"gpu_class"`
	Features Features `json:"features,omitzero"`
}

// CommandType implements CommandBody.
func (*CreateSKU) CommandType() string { return "sku.create" }

func (m *CreateSKU) wire(c *coder) {
	c.str(1, &m.Name)
	uintField(c, 2, &m.Shape)
	c.str(3, &m.GPUClass)
	uintField(c, 4, &m.Features)
}

// SKUCreated is the fact.
type SKUCreated struct {
	ID       SKUID    `json:"id"`
	Name     string   `json:"name"`
	Shape    uint32   `json:"shape"`
	GPUClass string   `json:"gpu_class"`
	Features Features `json:"features,omitzero"`
}

// EventType implements EventBody.
func (*SKUCreated) EventType() string { return "catalog.sku_created" }

// Owner implements EventBody.
func (*SKUCreated) Owner() string { return "" }

// Resource implements EventBody.
func (e *SKUCreated) Resource() string { return e.ID.String() }

func (e *SKUCreated) wire(c *coder) {
	idField(c, 1, &e.ID)
	c.str(2, &e.Name)
	uintField(c, 3, &e.Shape)
	c.str(4, &e.GPUClass)
	uintField(c, 5, &e.Features)
}

func (m *CreateSKU) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	if err := checkSlug("name", m.Name); err != nil {
		return nil, err
	}
	if !validShape(m.Shape) {
		return nil, invalidField("shape", "sku.shape", "shape: want 1, 2, 4 or 8 slots")
	}
	if err := checkWord("gpu_class", m.GPUClass, maxName, true); err != nil {
		return nil, err
	}
	if err := checkFeatures("features", m.Features); err != nil {
		return nil, err
	}
	if _, taken := w.skuNames[m.Name]; taken {
		return nil, Errorf(Conflict, "sku.name_taken", "a SKU named %q exists: choose another name", m.Name)
	}
	return []EventBody{&SKUCreated{ID: deriveID[skuKind](x.Entropy, 0), Name: m.Name, Shape: m.Shape, GPUClass: m.GPUClass, Features: m.Features}}, nil
}

func validShape(n uint32) bool { return n == 1 || n == 2 || n == 4 || n == 8 }

func (e *SKUCreated) apply(w *World, _ *Applied) {
	_, s := w.skus.add(e.ID)
	*s = SKU{ID: e.ID, Name: strings.Clone(e.Name), Shape: e.Shape, GPUClass: w.word(e.GPUClass), Features: e.Features}
	w.skuNames[s.Name] = e.ID
}

// PublishPrice adds a price version. A zero time means now.
type PublishPrice struct {
	SKU       SKUID    `json:"sku_id"`
	Tenant    TenantID `json:"tenant_id"`
	Currency  Currency `json:"currency"`
	Micros    Micros   `json:"micros_per_unit_hour"`
	Effective Time     `json:"effective_at"`
}

// CommandType implements CommandBody.
func (*PublishPrice) CommandType() string { return "price.publish" }

func (m *PublishPrice) wire(c *coder) {
	idField(c, 1, &m.SKU)
	idField(c, 2, &m.Tenant)
	stringField(c, 3, &m.Currency)
	intField(c, 4, &m.Micros)
	c.time(5, &m.Effective)
}

// PricePublished is the fact.
type PricePublished struct {
	ID        PriceID  `json:"id"`
	SKU       SKUID    `json:"sku_id"`
	Tenant    TenantID `json:"tenant_id,omitzero"`
	Currency  Currency `json:"currency"`
	Micros    Micros   `json:"micros_per_unit_hour"`
	Effective Time     `json:"effective_at"`
	Late      bool     `json:"late,omitempty"` // usage before it was known is corrected
}

// EventType implements EventBody.
func (*PricePublished) EventType() string { return "catalog.price_published" }

// Owner implements EventBody.
func (*PricePublished) Owner() string { return "" }

// Resource implements EventBody.
func (e *PricePublished) Resource() string { return e.SKU.String() }

func (e *PricePublished) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.SKU)
	idField(c, 3, &e.Tenant)
	stringField(c, 4, &e.Currency)
	intField(c, 5, &e.Micros)
	c.time(6, &e.Effective)
	c.bool(7, &e.Late)
}

func (m *PublishPrice) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator|RoleFinance); err != nil {
		return nil, err
	}
	s := w.skus.get(m.SKU)
	if s == nil {
		return nil, notFound("sku")
	}
	if !m.Tenant.IsZero() && w.tenants.get(m.Tenant) == nil {
		return nil, notFound("tenant")
	}
	if err := checkCurrency("currency", m.Currency); err != nil {
		return nil, err
	}
	if m.Micros < 0 || m.Micros > 1_000_000_000_000 {
		return nil, invalidField("micros_per_unit_hour", "amount.invalid", "micros_per_unit_hour: want 0 to 10^12")
	}
	e := &PricePublished{ID: deriveID[priceKind](x.Entropy, 0), SKU: m.SKU, Tenant: m.Tenant, Currency: m.Currency, Micros: m.Micros, Effective: m.Effective}
	if e.Effective == 0 {
		e.Effective = x.At
	}
	late, err := w.checkLate(x, s, e)
	if err != nil {
		return nil, err
	}
	e.Late = late
	return []EventBody{e}, nil
}

func (e *PricePublished) apply(w *World, x *Applied) {
	s := w.skus.get(e.SKU)
	p := Price{ID: e.ID, Tenant: e.Tenant, Currency: Currency(w.word(string(e.Currency))), Micros: e.Micros, Effective: e.Effective, Recorded: x.At}
	if e.Late {
		p.late = w.publishedLate(e, x.At)
	}
	s.prices = append(s.prices, p)
	w.priceChanged = max(w.priceChanged, e.Effective)
	slices.SortStableFunc(s.prices, byEffective)
}

// rateAt is the price of s for the tenant at t, and until when it holds (zero:
// for ever), as it was when the late price with the number `known` was the newest.
// A tenant's own price beats the book from its effective time on.
func (s *SKU) rateAt(tenant TenantID, cur Currency, t Time, known uint32) (rate Micros, until Time, ok bool) {
	rate, _, until, ok = s.versionAt(tenant, cur, t, known)
	return rate, until, ok
}

// versionAt is rateAt with the time since which the price holds.
func (s *SKU) versionAt(tenant TenantID, cur Currency, t Time, known uint32) (rate Micros, since, until Time, ok bool) {
	own := false
	for i := range s.prices {
		p := &s.prices[i]
		if p.Currency != cur || !p.Tenant.IsZero() && p.Tenant != tenant || p.late > known {
			continue
		}
		if p.Effective > t {
			if p.Tenant.IsZero() && own {
				continue // the book changes, the tenant's price does not
			}
			if until == 0 {
				until = p.Effective
			}
			continue
		}
		if p.Tenant.IsZero() && own {
			continue
		}
		rate, since, ok, own = p.Micros, p.Effective, true, !p.Tenant.IsZero()
	}
	return rate, since, until, ok
}
