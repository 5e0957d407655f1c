package commands

import (
	"sync"

	"github.com/gpuaas/gpuaas/domain"
)

// Directory is a copy of keys and people, as far as they are durable, that the
// edge reads without waiting for the loop: it authenticates requests even while
// Postgres is away. What an actor may do is decided by the loop; a key that was
// revoked a moment ago is refused there.
type Directory struct {
	mu      sync.RWMutex
	n       uint64
	byHash  map[domain.Digest]domain.APIKeyID
	keys    map[domain.APIKeyID]domain.APIKey
	members map[domain.UserID]domain.Member
	hosts   map[domain.HostID]HostKeys
}

// HostKeys are a host's public keys.
type HostKeys struct {
	NATS string
	Sign []byte
}

// Caller is who a request comes from.
type Caller struct {
	Key    domain.APIKey
	Member domain.Member
}

func newDirectory(w *domain.World) *Directory {
	d := &Directory{
		byHash: map[domain.Digest]domain.APIKeyID{}, keys: map[domain.APIKeyID]domain.APIKey{},
		members: map[domain.UserID]domain.Member{}, hosts: map[domain.HostID]HostKeys{}, n: w.Head.N,
	}
	w.Identities(
		func(k domain.APIKey) { d.byHash[k.Hash], d.keys[k.ID] = k.ID, k },
		func(m domain.Member) { d.members[m.ID] = m },
		func(h *domain.Host) {
			if h.NATSKey != "" {
				d.hosts[h.ID] = HostKeys{h.NATSKey, h.SignKey[:]}
			}
		},
	)
	return d
}

// apply brings the directory up to a durable commit.
func (d *Directory) apply(events []domain.EventBody) {
	locked := false
	for _, e := range events {
		switch e.(type) {
		case *domain.APIKeyCreated, *domain.APIKeyRevoked, *domain.TenantMemberSet, *domain.OperatorSet, *domain.HostAdmitted, *domain.HostRemoved:
			if !locked {
				d.mu.Lock()
				defer d.mu.Unlock()
				locked = true
			}
			d.applyOne(e)
		}
	}
}

func (d *Directory) applyOne(e domain.EventBody) {
	switch e := e.(type) {
	case *domain.APIKeyCreated:
		d.keys[e.ID] = domain.APIKey{ID: e.ID, Hash: e.Hash, Tenant: e.Tenant, User: e.User, Expires: e.Expires}
		d.byHash[e.Hash] = e.ID
	case *domain.APIKeyRevoked:
		k := d.keys[e.ID]
		delete(d.byHash, k.Hash)
		delete(d.keys, e.ID)
	case *domain.TenantMemberSet:
		m := d.members[e.User]
		m.ID, m.Tenant, m.Role = e.User, e.Tenant, e.Role
		if e.Role == domain.TenantNone {
			m.Tenant = domain.TenantID{}
		}
		d.members[e.User] = m
	case *domain.OperatorSet:
		m := d.members[e.User]
		m.ID, m.Platform = e.User, e.Roles
		d.members[e.User] = m
	case *domain.HostAdmitted:
		d.hosts[e.ID] = HostKeys{e.NATSKey, e.SignKey}
	case *domain.HostRemoved:
		delete(d.hosts, e.ID)
	}
}

// Caller finds who a key's secret belongs to, by its SHA-256.
func (d *Directory) Caller(secret domain.Digest, now domain.Time) (Caller, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	k, ok := d.keys[d.byHash[secret]]
	if !ok || !k.Usable(now) {
		return Caller{}, false
	}
	m, ok := d.members[k.User]
	return Caller{k, m}, ok && k.Speaks(&m)
}

// Host finds a host's public keys.
func (d *Directory) Host(id domain.HostID) (HostKeys, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	h, ok := d.hosts[id]
	return h, ok
}

// Hosts lists the admitted hosts.
func (d *Directory) Hosts() []domain.HostID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]domain.HostID, 0, len(d.hosts))
	for id := range d.hosts {
		out = append(out, id)
	}
	return out
}

// tenantOf is the lane of a key.
func (d *Directory) tenantOf(k domain.APIKeyID) domain.TenantID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.keys[k].Tenant
}
