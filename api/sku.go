package api

import (
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// SKU is what can be launched. It fixes the shape and is priced per GPU-hour.
type SKU struct {
	ID        string   `json:"id" example:"sku_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN       string   `json:"crn"`
	Name      string   `json:"name" example:"gpu-1x"`
	State     string   `json:"state" enum:"active"`
	Shape     uint32   `json:"shape" enum:"1,2,4,8" doc:"Slots (GPUs) of one VM"`
	GPUClass  string   `json:"gpu_class,omitempty" example:"h100-sxm5-80gb"`
	Features  []string `json:"features" nullable:"false" enum:"secure_boot,vtpm,sev-snp,tdx" doc:"What its VMs have beyond the plain"`
	Prices    []Price  `json:"prices" nullable:"false" doc:"Every version there was, is and will be"`
	CreatedAt string   `json:"created_at" format:"date-time"`
}

// Price is one version of a price. It never changes; a later one takes its place.
type Price struct {
	ID        string `json:"id" example:"price_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN       string `json:"crn"`
	Name      string `json:"name" doc:"Its currency" example:"USD"`
	State     string `json:"state" enum:"scheduled,effective" doc:"scheduled: effective_at has not come yet; of those that are effective the latest holds"`
	SKUID     string `json:"sku_id"`
	TenantID  string `json:"tenant_id,omitempty" doc:"A tenant's own price, which beats the book"`
	Currency  string `json:"currency" example:"USD"`
	Micros    int64  `json:"micros_per_unit_hour" example:"2490000" doc:"10^-6 of the currency for one GPU and hour"`
	Effective string `json:"effective_at" format:"date-time"`
	Recorded  string `json:"recorded_at,omitempty" format:"date-time"`
}

type createSKU struct {
	_        struct{} `json:"-" additionalProperties:"false"`
	Name     string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"gpu-1x"`
	Shape    uint32   `json:"shape" enum:"1,2,4,8"`
	GPUClass string   `json:"gpu_class,omitempty" maxLength:"63" example:"h100-sxm5-80gb"`
	Features []string `json:"features,omitempty" maxItems:"4" enum:"secure_boot,vtpm,sev-snp,tdx" doc:"What its VMs have beyond the plain, on hosts that offer it"`
}

type publishPrice struct {
	_         struct{} `json:"-" additionalProperties:"false"`
	TenantID  string   `json:"tenant_id,omitempty" maxLength:"64" doc:"Only for this tenant"`
	Currency  string   `json:"currency" minLength:"3" maxLength:"3" example:"USD"`
	Micros    int64    `json:"micros_per_unit_hour" minimum:"0" maximum:"1000000000000" example:"2490000"`
	Effective string   `json:"effective_at,omitempty" format:"date-time" doc:"Now if left out"`
}

// Offer is what the caller can launch of one SKU now.
type Offer struct {
	SKUID     string   `json:"sku_id"`
	SKU       string   `json:"sku" example:"gpu-1x"`
	Shape     uint32   `json:"shape"`
	GPUClass  string   `json:"gpu_class,omitempty"`
	Features  []string `json:"features" nullable:"false"`
	Currency  string   `json:"currency"`
	Micros    int64    `json:"micros_per_unit_hour"`
	Effective string   `json:"effective_at,omitempty" format:"date-time"`
	Quantity  uint32   `json:"quantity" doc:"VMs that can be launched now"`
	WhyZero   string   `json:"why_zero,omitempty" example:"quota.exceeded" doc:"Stable code when quantity is 0"`
}

// Offers is a list without pages: the catalog is small.
type Offers struct {
	Items []Offer `json:"items" nullable:"false"`
}

func (s *Server) skuRoutes() {
	command(s, route{method: "POST", path: "/v1/skus", id: "create-sku", tag: "Catalog", summary: "Create a SKU", status: 201}, s.createSKU)
	command(s, route{method: "POST", path: "/v1/skus/{s}/prices", id: "publish-price", tag: "Catalog", summary: "Publish a price", status: 201}, s.publishPrice)
	read(s, route{
		path: "/v1/offers", id: "list-offers", tag: "Catalog", summary: "What the caller can launch now, and why not more",
		query: []*param{queryParam("project_id", "Count this project's quota too.", stringSchema), queryParam("tenant_id", "Whose offers; needed by operators, who have no tenant.", stringSchema)},
	}, s.offers)
	read(s, route{path: "/v1/skus", id: "list-skus", tag: "Catalog", summary: "List the catalog"}, s.listSKUs)
	read(s, route{path: "/v1/skus/{s}", id: "get-sku", tag: "Catalog", summary: "Read a SKU"}, s.getSKU)
}

func (s *Server) createSKU(c *call, b *createSKU) (*SKU, *domain.Error) {
	features, err := featuresField("features", b.Features)
	if err != nil {
		return nil, err
	}
	d, err := c.submit(&domain.CreateSKU{Name: b.Name, Shape: b.Shape, GPUClass: b.GPUClass, Features: features})
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.SKUCreated](&d)
	if !ok {
		return nil, errNoEvent("catalog.sku_created")
	}
	c.location("/v1/skus/" + e.ID.String())
	return &SKU{
		ID: e.ID.String(), CRN: s.crn("", "", "sku", e.ID.String()), Name: e.Name, State: "active", Shape: e.Shape, GPUClass: e.GPUClass, Features: e.Features.Names(),
		Prices: []Price{}, CreatedAt: d.at.String(),
	}, nil
}

func (s *Server) publishPrice(c *call, b *publishPrice) (*Price, *domain.Error) {
	m := &domain.PublishPrice{Currency: domain.Currency(b.Currency), Micros: domain.Micros(b.Micros)}
	err := pathID(c, "s", "sku", &m.SKU)
	if err != nil {
		return nil, err
	}
	if err := idField("tenant_id", b.TenantID, &m.Tenant); err != nil {
		return nil, err
	}
	if m.Effective, err = timeField("effective_at", b.Effective); err != nil {
		return nil, err
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.PricePublished](&d)
	if !ok {
		return nil, errNoEvent("catalog.price_published")
	}
	out := Price{
		ID: e.ID.String(), SKUID: e.SKU.String(), TenantID: e.Tenant.String(), Currency: string(e.Currency), Micros: int64(e.Micros),
		Effective: e.Effective.String(), Recorded: d.at.String(),
	}
	s.namePrice(&out, e.Effective, d.at)
	return &out, nil
}

// namePrice adds what every resource has.
func (s *Server) namePrice(p *Price, effective, now domain.Time) {
	p.CRN, p.Name, p.State = s.crn(p.TenantID, "", "price", p.ID), p.Currency, "effective"
	if effective > now {
		p.State = "scheduled"
	}
}

func (s *Server) offers(c *call) (*Offers, *domain.Error) {
	tenant, project := c.caller.Member.Tenant, domain.ProjectID{}
	if t := c.echo.QueryParam("tenant_id"); t != "" && tenant.UnmarshalText([]byte(t)) != nil {
		return nil, notFound("tenant")
	}
	if p := c.echo.QueryParam("project_id"); p != "" && project.UnmarshalText([]byte(p)) != nil {
		return nil, notFound("project")
	}
	if tenant.IsZero() && project.IsZero() {
		return nil, domain.Errorf(domain.Invalid, "tenant.required", "offers are a tenant's: give tenant_id or project_id")
	}
	out := &Offers{Items: []Offer{}}
	err := c.query(func(w *domain.World, at domain.Time) *domain.Error {
		if !project.IsZero() {
			if err := w.MayRead(c.actor(), at, domain.TenantID{}, project); err != nil {
				return err
			}
			owner, _ := w.TenantOfProject(project)
			if !tenant.IsZero() && tenant != owner {
				return notFound("project")
			}
			tenant = owner
		}
		if err := w.MayRead(c.actor(), at, tenant, domain.ProjectID{}); err != nil {
			return err
		}
		list, err := w.Offers(tenant, project, at)
		for _, o := range list {
			out.Items = append(out.Items, Offer{
				SKUID: o.SKU.String(), SKU: o.Name, Shape: o.Shape, GPUClass: o.GPUClass, Features: o.Features.Names(), Currency: string(o.Currency), Micros: int64(o.Micros),
				Effective: o.Effective.String(), Quantity: o.Quantity, WhyZero: o.WhyZero,
			})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) listSKUs(c *call) (*List[SKU], *domain.Error) {
	return all(c, func() ([]projections.SKU, uint64, error) { return s.o.Reads.SKUs(c.ctx(), c.scope()) }, s.showSKU)
}

func (s *Server) getSKU(c *call) (SKU, *domain.Error) {
	var id domain.SKUID
	if err := pathID(c, "s", "sku", &id); err != nil {
		return SKU{}, err
	}
	return one(c, func() (projections.SKU, uint64, error) {
		skus, n, err := s.o.Reads.SKUs(c.ctx(), c.scope())
		for _, k := range skus {
			if k.ID == id.String() {
				return k, n, err
			}
		}
		if err == nil {
			err = notFound("sku")
		}
		return projections.SKU{}, n, err
	}, s.showSKU)
}

func (s *Server) showSKU(r *projections.SKU) SKU {
	k := SKU{
		ID: r.ID, CRN: s.crn("", "", "sku", r.ID), Name: r.Name, State: "active", Shape: r.Shape, GPUClass: r.GPUClass, Features: r.Features.Names(),
		Prices: make([]Price, len(r.Prices)), CreatedAt: r.CreatedAt.String(),
	}
	for i, p := range r.Prices {
		k.Prices[i] = Price{
			ID: p.ID, SKUID: r.ID, TenantID: p.TenantID, Currency: p.Currency, Micros: p.Micros, Effective: p.EffectiveAt.String(), Recorded: p.RecordedAt.String(),
		}
		s.namePrice(&k.Prices[i], p.EffectiveAt, domain.TimeOf(s.o.Clock()))
	}
	return k
}
