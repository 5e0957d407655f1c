package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// Who asks is found here, from the folded world; what they may do is decided
// where the answer is made: in decide for commands, in the read model for reads.

const maxKeyBytes = 256

func errNoKey() *domain.Error {
	return domain.Errorf(domain.Unauthenticated, "auth.invalid_key", "the API key is missing, unknown, expired or revoked")
}

// authenticate is huma's middleware: every route with a security requirement needs
// a key.
func (s *Server) authenticate(hc huma.Context, next func(huma.Context)) {
	if len(hc.Operation().Security) > 0 {
		c := callOf(hc.Context())
		caller, ok := s.o.Callers.Caller(c.secret, c.at) // again: the request may have waited
		if !ok {
			c.write(c.fail(errNoKey()))
			return
		}
		c.caller, c.known = caller, true
	}
	next(hc)
}

// secretOf is the digest of the key in a header; without one it is nobody's.
func secretOf(header string) (domain.Digest, bool) {
	scheme, key, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || key == "" || len(key) > maxKeyBytes {
		return domain.Digest{}, false
	}
	return SecretHash(strings.TrimSpace(key)), true
}

func (c *call) actor() domain.Actor {
	return domain.Actor{Kind: domain.ActorKey, Key: c.caller.Key.ID}
}

// platform reports whether the caller is one of the site's own people.
func (c *call) platform() bool { return c.caller.Member.Platform != 0 }

// requirePlatform is the read routes' form of the rule in decide.
func (c *call) requirePlatform() *domain.Error {
	if c.platform() {
		return nil
	}
	return domain.Errorf(domain.Forbidden, "auth.platform_only", "this needs one of the platform roles [operator finance auditor]")
}

// requireOperator is for what changes nothing and still is the operators' alone.
func (c *call) requireOperator() *domain.Error {
	if c.caller.Member.Platform&domain.RoleOperator != 0 {
		return nil
	}
	return domain.Errorf(domain.Forbidden, "auth.platform_only", "this needs one of the platform roles [operator]")
}

// denial is what the audit stream keeps of a refused request.
type denial struct {
	RequestID string `json:"request_id"`
	At        string `json:"at"`
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Method    string `json:"method"`
	Route     string `json:"route"`
	Path      string `json:"path"`
	UserID    string `json:"user_id,omitempty"`
	KeyID     string `json:"key_id,omitempty"`
	TenantID  string `json:"tenant_id,omitempty"`
	Remote    string `json:"remote"`
}

// denied keeps a denial, off the reply path and bounded for each caller.
func (c *call) denied(p *Problem) {
	if p.Status != http.StatusUnauthorized && p.Status != http.StatusForbidden && p.Status != http.StatusNotFound || c.s.o.Audit == nil {
		return
	}
	who := c.echo.RealIP()
	if c.known {
		who = c.caller.Member.ID.String()
	}
	if !c.s.denials.allow(who, domain.TimeOf(c.s.o.Clock())) { // now: some denials come after a wait
		c.s.metrics.denialsDropped.Inc()
		return
	}
	d := denial{
		RequestID: c.id, At: c.at.String(), Status: p.Status, Code: p.Code, Method: clip(c.method(), 16), Route: c.echo.Path(),
		Path: clip(c.echo.Request().URL.Path, 512), Remote: clip(c.echo.RealIP(), 64),
	}
	if c.known {
		d.UserID, d.KeyID, d.TenantID = c.caller.Member.ID.String(), c.caller.Key.ID.String(), c.caller.Member.Tenant.String()
	}
	data, err := json.Marshal(d)
	if err != nil || !c.s.o.Audit.Record("denial", data) {
		c.s.metrics.denialsDropped.Inc()
	}
}

// limiter bounds what each of many may do in a second. It forgets everybody every
// second, and counts strangers above its size as one.
type limiter struct {
	mu     sync.Mutex
	second domain.Time
	counts map[string]int
	each   int
	size   int
}

func newLimiter(each, size int) *limiter {
	return &limiter{counts: map[string]int{}, each: each, size: size}
}

func (l *limiter) allow(who string, at domain.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := at / domain.Time(domain.Second); s != l.second {
		l.second = s
		clear(l.counts)
	}
	if _, ok := l.counts[who]; !ok && len(l.counts) >= l.size {
		who = ""
	}
	l.counts[who]++
	return l.counts[who] <= l.each
}
