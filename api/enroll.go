package api

import (
	"context"
	"encoding/base64"
	"strings"

	crand "crypto/rand"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

type enroll struct {
	_       struct{} `json:"-" additionalProperties:"false"`
	Token   string   `json:"token" minLength:"10" maxLength:"128" example:"enr_..."`
	SignKey string   `json:"signing_public_key" minLength:"43" maxLength:"44" doc:"Ed25519, base64" example:"MCowBQYDK2VwAyEA..."`
	NATSKey string   `json:"nats_public_key" minLength:"56" maxLength:"56" doc:"A public user nkey" example:"U..."`
}

// Enrolled is what a host needs to speak.
type Enrolled struct {
	HostID  string `json:"host_id"`
	Site    string `json:"site"`
	NATSURL string `json:"nats_url"`
	NATSCA  string `json:"nats_ca,omitempty" doc:"Who signed the certificate at nats_url, PEM; absent: whom the host trusts anyway"`
	NATSJWT string `json:"nats_jwt" doc:"The host's credential: it may publish its own reports and read its own placement"`
}

// enrollRoutes: the one route of hosts. The token is its authentication; the same
// token with the same keys gets the same answer, so that a lost one can be asked
// for again.
func (s *Server) enrollRoutes() {
	r := route{
		method: "POST", path: "/v1/enroll", id: "enroll-host", tag: "Fleet", open: true, summary: "Exchange a host's one-time token for its credential",
		about: "Needs no API key. The private keys stay on the host.", also: []int{400, 401, 413, 415},
	}
	huma.Register(s.api, s.operation(r, false), func(ctx context.Context, in *input[enroll]) (*output[*Enrolled], error) {
		c := callOf(ctx)
		c.rest()
		out, err := s.enroll(c, &in.Body)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &output[*Enrolled]{out}, nil
	})
	s.routes = append(s.routes, r)
}

func errToken() *domain.Error {
	return domain.Errorf(domain.Unauthenticated, "host.token_invalid", "the enrolment token is unknown: make a new host with POST /v1/hosts")
}

func (s *Server) enroll(c *call, b *enroll) (*Enrolled, *domain.Error) {
	key, err := base64.StdEncoding.DecodeString(b.SignKey)
	if err != nil {
		key, err = base64.RawURLEncoding.DecodeString(b.SignKey)
	}
	if err != nil || len(key) != 32 {
		return nil, invalid("signing_public_key", "host.bad_key", "signing_public_key: want the 32 bytes of an Ed25519 public key in base64")
	}
	// Anyone can call this: guesses do not get as far as the decision loop.
	if !wellFormedToken(b.Token) {
		return nil, errToken()
	}
	if !s.enrolments.allow(c.echo.RealIP(), c.at) {
		return nil, domain.Errorf(domain.Exhausted, "enrolment.too_many", "too many enrolments from this address: try again in a second")
	}
	token := SecretHash(b.Token)
	var host domain.HostID
	if derr := c.queryAs(domain.Actor{Kind: domain.ActorKey}, func(w *domain.World, _ domain.Time) *domain.Error {
		var ok bool
		if host, ok = w.HostByToken(token); !ok {
			return errToken()
		}
		return nil
	}); derr != nil {
		return nil, derr
	}
	// As the site itself: the domain checks token and keys.
	var e domain.Entropy
	_, _ = crand.Read(e[22:])
	cmd := &domain.Command{
		ID: commands.NewCommandID(s.o.Clock(), e), Actor: domain.System,
		Body: &domain.AdmitHost{TokenID: token, NATSKey: b.NATSKey, SignKey: key},
	}
	r := s.o.Decider.Submit(c.ctx(), cmd)
	if r.Err != nil {
		return nil, r.Err
	}
	c.sequence(r.N)
	jwt, err := s.o.Hosts.Issue(host, b.NATSKey)
	if err != nil {
		return nil, domain.AsError(err)
	}
	return &Enrolled{HostID: host.String(), Site: s.o.Site, NATSURL: s.o.NATSURL, NATSCA: s.o.NATSCA, NATSJWT: jwt}, nil
}

func wellFormedToken(t string) bool {
	n := len(t) - 6
	return n > 0 && strings.HasPrefix(t, tokenPrefix+"_") && checksum(t[:n]) == t[n:]
}
