package domain

import (
	"fmt"
)

// A launch is decided whole: authorization, guardrails, price, quota, money and
// places are looked at in one decision.

// CreateAllocation asks for VMs. What is from outside is resolved at the edge: the
// vault's digest of ssh keys, user data and tags.
type CreateAllocation struct {
	Project   ProjectID `json:"project_id"`
	Name      string    `json:"name"`
	SKU       SKUID     `json:"sku_id"`
	SKUName   string    `json:"sku"`   // instead of the id
	Shape     uint32    `json:"shape"` // 0: the SKU's
	Count     uint32    `json:"count"`
	Image     string    `json:"image"`        // NAME or NAME:VERSION
	ImageHash Digest    `json:"image_digest"` // zero: the catalog's
	UserData  Digest    `json:"user_data_digest"`
	Expires   Time      `json:"expires_at"`
	LockPrice bool      `json:"lock_price"`
}

// CommandType implements CommandBody.
func (*CreateAllocation) CommandType() string { return "allocation.create" }

func (m *CreateAllocation) wire(c *coder) {
	idField(c, 1, &m.Project)
	c.str(2, &m.Name)
	idField(c, 3, &m.SKU)
	c.str(4, &m.SKUName)
	uintField(c, 5, &m.Shape)
	uintField(c, 6, &m.Count)
	c.str(7, &m.Image)
	c.digest(8, &m.ImageHash)
	c.digest(9, &m.UserData)
	c.time(10, &m.Expires)
	c.bool(11, &m.LockPrice)
}

func (m *CreateAllocation) decide(w *World, x *Context) ([]EventBody, *Error) {
	prj, who, err := w.requireProject(x, m.Project, ProjectMember)
	if err != nil {
		return nil, err
	}
	t := w.tenants.get(prj.Tenant)
	sku, err := w.checkLaunch(m, t, prj)
	if err != nil {
		return nil, err
	}
	rate, _, priced := sku.rateAt(t.ID, t.Currency, x.At, everyPrice)
	if !priced {
		return nil, Errorf(Conflict, "sku.no_price", "%s has no price in %s", sku.Name, t.Currency)
	}
	expires, err := w.launchExpiry(x, m, prj)
	if err != nil {
		return nil, err
	}
	image, digest, private, features := w.launchImage(m, prj), m.ImageHash, false, sku.Features
	if digest.IsZero() { // an edge of before looked it up itself
		found, err := w.resolveImage(prj.ID, image)
		if err != nil {
			return nil, err
		}
		if found != nil {
			digest, private, features = found.Digest, !found.Project.IsZero(), features|found.Needs
			if err := found.fits(features); err != nil {
				return nil, err
			}
		}
	}
	gpus := m.Count * sku.Shape
	if err := w.checkQuota(t, prj, gpus); err != nil {
		return nil, err
	}
	hold := rate * Micros(gpus)
	p := newPurse(w, t, x)
	if have, ok := w.canSpend(t, p, hold); !ok {
		return nil, Errorf(PaymentRequired, "funds.insufficient", "a launch puts one hour's price aside: %d micros of %s, %d are available; add credit or launch less", hold, t.Currency, max(0, have))
	}
	places := w.place(w.placementRequest(sku, features, m.Count, t.ID, prj.ID))
	if places == nil {
		return nil, Errorf(Exhausted, "capacity.exhausted", "no room for %d x %s now: see GET /v1/offers", m.Count, sku.Name)
	}
	e := &AllocationPlaced{
		ID: deriveID[allocationKind](x.Entropy, 0), Tenant: t.ID, Project: prj.ID, Name: m.Name, SKU: sku.ID, Shape: sku.Shape,
		Image: image, ImageHash: digest, Private: private, UserData: m.UserData, User: who.user, Expires: expires, LockedRate: -1, Features: features,
		VMs: make([]VMPlaced, len(places)), Deadline: x.At.Add(provisionDeadline + Duration(sku.Shape)*perSlotAllowance),
	}
	if m.LockPrice {
		e.LockedRate = rate
	}
	seed := x.Entropy.derive("lease-seed", 0)
	copy(e.Seed[:], seed[:])
	if e.Name == "" {
		id := e.ID.String()
		e.Name = "a-" + id[len(id)-10:]
	}
	events := make([]EventBody, 1, 2+len(places))
	events[0] = e
	for i, pl := range places {
		v := VMPlaced{VM: deriveID[vmKind](x.Entropy, i), Host: w.hosts.row(pl.host).ID, Slots: make([]SlotID, pl.n)}
		for k := range v.Slots {
			v.Slots[k] = w.slots.row(pl.slots[k]).ID
		}
		e.VMs[i] = v
		events = append(events, &SlotReserved{Host: v.Host, Allocation: e.ID, VM: v.VM, Slots: v.Slots})
	}
	events = append(events, p.take()...)
	if hold > 0 {
		legs := append(p.burn(hold, x.At+1), Leg{Account{Kind: AccountHold, Ref: e.ID}, hold})
		events = append(events, p.tx(TxHold, x.At, e.ID, VMID{}, legs))
	}
	return events, nil
}

// checkLaunch checks the request against tenant, project, catalog and guardrails.
func (w *World) checkLaunch(m *CreateAllocation, t *Tenant, prj *Project) (*SKU, *Error) {
	if m.Name != "" {
		if err := checkSlug("name", m.Name); err != nil {
			return nil, err
		}
		if w.allocationByName(prj.ID, m.Name) != none {
			return nil, Errorf(Conflict, "allocation.name_taken", "an allocation named %q is live in this project: choose another name", m.Name)
		}
	}
	if t.State != TenantActive {
		return nil, Errorf(PaymentRequired, "tenant."+t.State.String(), "the tenant is %s: add credit to launch again", t.State)
	}
	id := m.SKU
	if id.IsZero() {
		id = w.skuNames[m.SKUName]
	}
	sku := w.skus.get(id)
	if sku == nil {
		return nil, invalidField("sku", "sku.not_found", "no such sku: see GET /v1/offers")
	}
	if m.Shape != 0 && m.Shape != sku.Shape {
		return nil, invalidField("shape", "sku.wrong_shape", "shape: %s has shape %d; leave it out or choose another sku", sku.Name, sku.Shape)
	}
	if m.Count < 1 || m.Count > maxGangVMs {
		return nil, invalidField("count", "allocation.count", "count: want 1 to %d", maxGangVMs)
	}
	if len(w.policies) == 0 {
		return sku, nil
	}
	if limit, ok := w.policyLimit("allocation.max_count", t.ID, prj.ID); ok && int64(m.Count) > limit {
		return nil, Errorf(Forbidden, "policy.max_count", "count: the policy allocation.max_count allows %d", limit)
	}
	if eff, ok := w.EffectivePolicy("allocation.images", t.ID, prj.ID); ok {
		if image := w.launchImage(m, prj); !allowsImage(eff.Value.List, image) {
			return nil, Errorf(Forbidden, "policy.image", "image %q: the policy allocation.images allows %v", clip(image, 64), eff.Value.List)
		}
	}
	return sku, nil
}

// DefaultImage is launched when neither request nor policy name one.
const DefaultImage = "tiny"

func (w *World) launchImage(m *CreateAllocation, prj *Project) string {
	if m.Image != "" {
		return m.Image
	}
	return w.policyWord("allocation.default_image", DefaultImage, prj.Tenant, prj.ID)
}

func (w *World) launchExpiry(x *Context, m *CreateAllocation, prj *Project) (Time, *Error) {
	if m.Expires != 0 && m.Expires <= x.At {
		return 0, invalidField("expires_at", "time.past", "expires_at: lies in the past")
	}
	if len(w.policies) == 0 {
		return m.Expires, nil
	}
	limit, ok := w.policyLimit("allocation.max_lifetime_seconds", prj.Tenant, prj.ID)
	if !ok {
		return m.Expires, nil
	}
	last := x.At.Add(Duration(min(limit, 1<<40)) * Second)
	if m.Expires == 0 {
		return last, nil
	}
	if m.Expires > last {
		return 0, Errorf(Forbidden, "policy.max_lifetime", "expires_at: the policy allocation.max_lifetime_seconds allows %d seconds", limit)
	}
	return m.Expires, nil
}

// checkQuota holds the launch against the quotas of tenant and project.
func (w *World) checkQuota(t *Tenant, prj *Project, gpus uint32) *Error {
	if len(w.policies) == 0 {
		return nil
	}
	for _, q := range [...]struct {
		key     string
		project ProjectID
		used    uint32
		more    uint32
	}{
		{"quota.gpus", ProjectID{}, t.GPUs, gpus},
		{"quota.gpus", prj.ID, prj.GPUs, gpus},
		{"quota.allocations", ProjectID{}, t.Allocations, 1},
		{"quota.allocations", prj.ID, prj.Allocations, 1},
	} {
		if limit, ok := w.policyLimit(q.key, t.ID, q.project); ok && int64(q.used)+int64(q.more) > limit {
			e := Errorf(Exhausted, "quota.exceeded", "%s: %d in use and %d asked for, the limit is %d", q.key, q.used, q.more, limit)
			e.Retryable = false
			return e
		}
	}
	return nil
}

// CheckDetails is what the edge checks of free text before it goes to the vault.
func CheckDetails(sshKeys []string, userData []byte, tags map[string]string) *Error {
	if len(userData) > maxUserData {
		return invalidField("user_data", "user_data.too_large", "user_data: %d bytes, at most %d", len(userData), maxUserData)
	}
	if len(sshKeys) > maxSSHKeys || len(tags) > maxTags {
		return invalidField("ssh_keys", "details.too_many", "at most %d ssh_keys and %d tags", maxSSHKeys, maxTags)
	}
	for i, k := range sshKeys {
		if len(k) > 16<<10 {
			return invalidField(fmt.Sprintf("ssh_keys[%d]", i), "ssh_key.too_large", "ssh_keys[%d]: too large", i)
		}
		for _, c := range k {
			if c < ' ' {
				return invalidField(fmt.Sprintf("ssh_keys[%d]", i), "ssh_key.control_character", "ssh_keys[%d]: one line, no control characters", i)
			}
		}
	}
	for k, v := range tags {
		if err := checkWord("tags", k, maxName, false); err != nil {
			return err
		}
		if len(v) > 256 {
			return invalidField("tags", "tag.too_large", "tags: a value has more than 256 bytes")
		}
	}
	return nil
}
