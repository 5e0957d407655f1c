package api

import (
	"encoding/json"
	"errors"
	"io/fs"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// details are what of a launch goes to the vault, and not to the log.
type details struct {
	SSHKeys  []string          `json:"ssh_keys"`
	UserData []byte            `json:"user_data"` // base64
	Tags     map[string]string `json:"tags"`
}

// addTags reads an allocation's tags from the vault. They are the tenant's own: the
// site's people do not see them. What was erased is gone for ever, and said to be.
func (s *Server) addTags(c *call, r *projections.Allocation, a *Allocation) *domain.Error {
	var digest domain.Digest
	if c.caller.Member.Tenant.String() != r.TenantID || digest.UnmarshalText([]byte(r.UserData)) != nil || digest.IsZero() {
		return nil //nolint:nilerr // none was kept
	}
	plain, err := s.o.Vault.Get(c.ctx(), digest)
	if errors.Is(err, fs.ErrNotExist) {
		a.TagsErased = true
		return nil
	}
	var d details
	if err == nil {
		err = json.Unmarshal(plain, &d)
	}
	if err != nil {
		e := domain.Errorf(domain.Unavailable, "vault.unavailable", "the vault does not answer now: try again")
		e.Cause = err
		return e
	}
	a.Tags = d.Tags
	return nil
}
