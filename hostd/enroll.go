package hostd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// EnrollOptions are what a host exchanges for its identity.
type EnrollOptions struct {
	Server        string // base URL of the API: "https://gpu.example.org"
	Token         string // the one-time credential that POST /v1/hosts answered
	Dir           string
	NATSPublicKey string // public half of the connection's nkey
	Client        *http.Client
	Insecure      bool // allow http to another machine: the token travels in clear
}

const (
	enrollTimeout  = 30 * time.Second
	enrollMaxBytes = 64 << 10
)

// Enroll sends the host's public keys and the token, and keeps the answer. The keys
// are on disk before the token is spent, so that after a crash the same exchange
// can be asked for again.
func Enroll(ctx context.Context, o EnrollOptions) (*Identity, error) {
	endpoint, err := enrollURL(o)
	if err != nil {
		return nil, err
	}
	key, err := SigningKey(o.Dir)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{
		"token":              o.Token,
		"signing_public_key": []byte(key.Public().(ed25519.PublicKey)), // base64
		"nats_public_key":    o.NATSPublicKey,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := o.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, enrollMaxBytes))
	if err != nil {
		return nil, fmt.Errorf("enroll: read the answer: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return nil, enrollProblem(res.Status, b)
	}
	return keepEnrolment(o.Dir, b)
}

func enrollURL(o EnrollOptions) (string, error) {
	u, err := url.Parse(o.Server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("enroll: %q is not the URL of a server", o.Server)
	}
	if u.Scheme == "http" && !o.Insecure && !loopback(u.Hostname()) {
		return "", fmt.Errorf("enroll: %s would carry the token in clear: use https, or --insecure on a network that is yours alone", o.Server)
	}
	if o.Token == "" || o.NATSPublicKey == "" {
		return "", errors.New("enroll: a token and a public NATS key are required")
	}
	return strings.TrimSuffix(o.Server, "/") + "/v1/enroll", nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// enrollProblem shows what the server said (RFC 9457), as far as it can be read.
func enrollProblem(status string, b []byte) error {
	var problem struct {
		Code   string `json:"code"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Errors []struct {
			Field   string `json:"field"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(b, &problem) == nil && problem.Code != "" {
		err := fmt.Errorf("enroll: %s: %s: %s", status, problem.Code, problem.Detail)
		for _, e := range problem.Errors {
			err = fmt.Errorf("%w; %s: %s", err, e.Field, e.Message)
		}
		return err
	}
	return fmt.Errorf("enroll: %s", status)
}

func keepEnrolment(dir string, b []byte) (*Identity, error) {
	var answer struct {
		Identity
		JWT string `json:"nats_jwt"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return nil, fmt.Errorf("enroll: the answer is not understood: %w", err)
	}
	id := answer.Identity
	if id.Host.IsZero() || id.Site == "" || id.NATSURL == "" || answer.JWT == "" {
		return nil, errors.New("enroll: the answer lacks host, site, NATS URL or JWT")
	}
	if was, err := LoadIdentity(dir); err == nil && (was.Host != domain.HostID{}) && was.Host != id.Host {
		return nil, fmt.Errorf("enroll: %s belongs to %s: a journal and a fence are never shared", dir, was.Host)
	}
	if err := SaveSecret(dir, SecretNATSJWT, []byte(answer.JWT)); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return nil, err
	}
	return &id, SaveSecret(dir, identityFile, append(out, '\n')) // last: it says that the rest is there
}
