package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	fastjson "github.com/goccy/go-json"

	"github.com/gpuaas/gpuaas/domain"
)

// createAllocation is the body of the route that is called most. Its schema tags
// are documentation; check below is what holds, and a test compares the two.
type createAllocation struct {
	_         struct{}          `json:"-" additionalProperties:"false"`
	Name      string            `json:"name,omitempty" maxLength:"63" example:"train-7" doc:"Left out: made from the id"`
	SKU       string            `json:"sku" minLength:"1" maxLength:"64" example:"gpu-1x" doc:"Name or id"`
	Shape     uint32            `json:"shape,omitempty" doc:"The SKU's; another one is refused"`
	Count     uint32            `json:"count,omitempty" minimum:"0" maximum:"32" default:"1" doc:"VMs, all or none; 0 stands for 1"`
	Image     string            `json:"image,omitempty" maxLength:"128" example:"tiny" doc:"NAME or NAME:VERSION; the project's own before the site's"`
	SSHKeys   []string          `json:"ssh_keys,omitempty" maxItems:"64" nullable:"false"`
	UserData  string            `json:"user_data,omitempty" maxLength:"65536" doc:"cloud-init, as it is"`
	Tags      map[string]string `json:"tags,omitempty"`
	ExpiresAt string            `json:"expires_at,omitempty" format:"date-time" doc:"Released then"`
	DryRun    bool              `json:"dry_run,omitempty" doc:"Say what would happen, with status 200, and change nothing"`
	LockPrice bool              `json:"lock_price,omitempty" doc:"Keep today's price for the whole life"`
}

// launchRoute is the hot route: huma documents it and finds who asks, the body is decoded
// and checked, and the answer written, here, once.
func (s *Server) launchRoute() {
	r := route{
		method: "POST", path: "/v1/projects/{p}/allocations", id: "create-allocation", tag: "Allocations", summary: "Launch VMs",
		about: "All of count or none. One hour's price is put aside. With dry_run the answer is 200 and nothing happens.", status: 201,
	}
	op := s.operation(r, true)
	allocation := map[string]*huma.MediaType{"application/json": {Schema: s.schema("Allocation", Allocation{})}}
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {
			Schema:  s.schema("CreateAllocation", createAllocation{}),
			Example: map[string]any{"name": "train-7", "sku": "gpu-1x", "count": 1, "image": "tiny"},
		},
	}}
	op.Responses["200"] = &huma.Response{Description: "A dry run: what would happen", Content: allocation}
	op.Responses["201"].Content = allocation
	s.api.OpenAPI().AddOperation(&op)
	s.api.Adapter().Handle(&op, s.api.Middlewares().Handler(func(hc huma.Context) {
		c := callOf(hc.Context())
		out, err := s.launch(c)
		c.work()
		if err != nil {
			c.write(c.fail(err))
			return
		}
		status := http.StatusCreated
		if out.DryRun {
			status = http.StatusOK
		}
		_ = answerJSON(c.echo.Response(), status, out)
	}))
	s.routes = append(s.routes, r)
}

func (s *Server) launch(c *call) (*Allocation, *domain.Error) {
	m := &domain.CreateAllocation{}
	if err := pathID(c, "p", "project", &m.Project); err != nil {
		return nil, err
	}
	b, err := decodeLaunch(c.body)
	if err != nil {
		return nil, err
	}
	if err := b.into(m); err != nil {
		return nil, err
	}
	c.rest()
	secret := len(b.SSHKeys) > 0 || b.UserData != "" || len(b.Tags) > 0
	if b.DryRun || secret {
		out, err := s.prepare(c, m, b, secret)
		if out != nil || err != nil {
			return out, err
		}
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	out, err := s.launchedAllocation(c, d.events, d.at, b)
	if err == nil {
		c.location("/v1/allocations/" + out.ID)
	}
	return out, err
}

// prepare asks the world whose vault the details go to, and whether the launch would
// be allowed at all. Nothing is kept of a request that would be refused. A dry run ends here.
func (s *Server) prepare(c *call, m *domain.CreateAllocation, b *createAllocation, secret bool) (*Allocation, *domain.Error) {
	var owner domain.TenantID
	out, at, err := c.rehearse(m, func(w *domain.World) { owner, _ = w.TenantOfProject(m.Project) })
	switch {
	case err != nil:
		return nil, err
	case out.Err != nil:
		return nil, out.Err
	}
	if b.DryRun {
		if out.Repeat.N != 0 { // its Idempotency-Key was used to launch for real
			return nil, domain.Errorf(domain.Conflict, "idempotency.conflict", "this Idempotency-Key came with another request before: use a new key")
		}
		plan, err := s.launchedAllocation(c, out.Events, at, b)
		if err != nil {
			return nil, err
		}
		plan.ID, plan.CRN, plan.State, plan.DryRun = "", "", "planned", true
		for i := range plan.VMs {
			v := &plan.VMs[i]
			v.ID, v.CRN, v.State = "", "", "planned" // of ids that nothing will have
			if b.Name == "" {
				v.Name = ""
			}
		}
		if b.Name == "" {
			plan.Name = ""
		}
		return plan, nil
	}
	if !secret || out.Repeat.N != 0 {
		return nil, nil
	}
	doc, jerr := json.Marshal(details{b.SSHKeys, []byte(b.UserData), b.Tags})
	if jerr != nil {
		return nil, domain.AsError(jerr)
	}
	digest, verr := s.o.Vault.Put(c.ctx(), owner.String(), doc)
	if verr != nil {
		e := domain.Errorf(domain.Unavailable, "vault.unavailable", "the vault does not answer now: try again")
		e.Cause = verr
		return nil, e
	}
	m.UserData = digest
	return nil, nil
}

// decodeLaunch is strict: a field that is not known is refused by name.
func decodeLaunch(body []byte) (*createAllocation, *domain.Error) {
	if len(body) == 0 {
		return nil, domain.Errorf(domain.Invalid, "request.malformed", "request body is required")
	}
	b := &createAllocation{}
	d := fastjson.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(b); err != nil {
		return nil, errSchema(body)
	}
	return b, nil
}

// errSchema finds out, off the fast path, what does not fit.
func errSchema(body []byte) *domain.Error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return invalid("", "request.invalid", "the body is not an object")
	}
	for name, raw := range fields {
		f, ok := launchFields[name]
		if !ok {
			return invalid(clip(name, 64), "request.unknown_field", "%q is not a field of this request", clip(name, 64))
		}
		if json.Unmarshal(raw, reflect.New(f).Interface()) != nil {
			return invalid(name, "request.invalid", "%s: not of the type it should be", name)
		}
	}
	return domain.Errorf(domain.Invalid, "request.invalid", "the request does not fit its schema")
}

// launchFields are the fields of the body by name.
var launchFields = func() map[string]reflect.Type {
	t, m := reflect.TypeFor[createAllocation](), map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		if name := jsonName(f); name != "" {
			m[name] = f.Type
		}
	}
	return m
}()

func jsonName(f reflect.StructField) string {
	tag := f.Tag.Get("json")
	for i := range len(tag) {
		if tag[i] == ',' {
			tag = tag[:i]
			break
		}
	}
	if tag == "-" {
		return ""
	}
	return tag
}

// into checks what the schema says and fills the command.
func (b *createAllocation) into(m *domain.CreateAllocation) *domain.Error {
	switch {
	case b.SKU == "":
		return invalid("sku", "sku.required", "sku: say which, by name or id: see GET /v1/offers")
	case len(b.SKU) > 64:
		return invalid("sku", "sku.not_found", "no such sku: see GET /v1/offers")
	case b.Count > 32:
		return invalid("count", "allocation.count", "count: want 1 to 32")
	case len(b.Name) > 63:
		return invalid("name", "name.invalid", "name: want 1 to 63 of a-z, 0-9 and -, not at either end a -")
	case len(b.Image) > 128:
		return invalid("image", "image.not_found", "image: no such image")
	}
	m.Name, m.Shape, m.Count, m.Image, m.LockPrice = b.Name, b.Shape, b.Count, b.Image, b.LockPrice
	if m.Count == 0 {
		m.Count = 1
	}
	if m.SKU.UnmarshalText([]byte(b.SKU)) != nil {
		m.SKU, m.SKUName = domain.SKUID{}, b.SKU
	}
	if b.ExpiresAt != "" {
		var err *domain.Error
		if m.Expires, err = timeField("expires_at", b.ExpiresAt); err != nil {
			return err
		}
	}
	if len(b.SSHKeys) > 0 || b.UserData != "" || len(b.Tags) > 0 {
		return domain.CheckDetails(b.SSHKeys, []byte(b.UserData), b.Tags)
	}
	return nil
}

// launchedAllocation is the answer to a launch, from the events that followed.
func (s *Server) launchedAllocation(c *call, events []domain.EventBody, at domain.Time, b *createAllocation) (*Allocation, *domain.Error) {
	d := decided{events: events}
	e, ok := eventOf[*domain.AllocationPlaced](&d)
	if !ok {
		return nil, errNoEvent("allocation.placed")
	}
	id, tenant, project := e.ID.String(), e.Tenant.String(), e.Project.String()
	a := &Allocation{
		ID: id, CRN: s.crn(tenant, project, "allocation", id), Name: e.Name, State: domain.Provisioning.String(), TenantID: tenant, ProjectID: project,
		SKU: b.SKU, SKUID: e.SKU.String(), Shape: e.Shape, Count: uint32(len(e.VMs)), Image: e.Image, Features: e.Features.Names(), VMs: make([]VM, len(e.VMs)),
		RequestedBy: e.User.String(), CreatedAt: at.String(), ExpiresAt: e.Expires.String(),
	}
	if e.Tenant == c.caller.Member.Tenant {
		a.Tags = b.Tags
	}
	if a.SKU == a.SKUID { // asked for by id
		var err *domain.Error
		if a.SKU, err = s.skuName(c, e.SKU); err != nil {
			return nil, err
		}
	}
	if e.LockedRate >= 0 {
		rate := int64(e.LockedRate)
		a.LockedMicros = &rate
	}
	for i := range e.VMs {
		v := &e.VMs[i]
		a.VMs[i] = VM{ID: v.VM.String(), State: a.State, HostID: v.Host.String(), SlotIDs: make([]string, len(v.Slots))}
		for k := range v.Slots {
			a.VMs[i].SlotIDs[k] = v.Slots[k].String()
		}
	}
	s.nameVMs(a)
	for _, ev := range events {
		if tx, ok := ev.(*domain.LedgerPosted); ok && tx.Kind == domain.TxHold {
			for _, l := range tx.Legs {
				if l.Account.Kind == domain.AccountHold {
					a.HoldMicros += int64(l.Amount)
				}
			}
		}
	}
	return a, nil
}

// skuName is a SKU's name. It never changes, so it is asked for once.
func (s *Server) skuName(c *call, id domain.SKUID) (string, *domain.Error) {
	if name, ok := s.skus.Load(id); ok {
		return name.(string), nil
	}
	name := ""
	if _, err := c.ask(c.actor(), func(w *domain.World, _ domain.Time) *domain.Error {
		name, _ = w.SKUName(id)
		return nil
	}); err != nil {
		return "", err
	}
	s.skus.Store(id, name)
	return name, nil
}
