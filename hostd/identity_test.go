package hostd_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
)

// desk is the enrolment desk of a site: one token, and the keys that came with it.
func desk(t *testing.T, host domain.HostID) (*httptest.Server, *[]string) {
	var keys []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Token   string `json:"token"`
			Signing []byte `json:"signing_public_key"`
			NATS    string `json:"nats_public_key"`
		}
		if r.Method != http.MethodPost || r.URL.Path != "/v1/enroll" || json.NewDecoder(r.Body).Decode(&in) != nil || in.Token != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"code":"host.token_invalid","detail":"the enrolment token is unknown","errors":[{"field":"body.token","message":"expected length >= 10"}]}`))
			return
		}
		keys = append(keys, string(in.Signing)+in.NATS)
		_ = json.NewEncoder(w).Encode(map[string]any{"host_id": host, "site": "dev", "nats_url": "nats://127.0.0.1:4222", "nats_jwt": "jwt"})
	}))
	t.Cleanup(srv.Close)
	return srv, &keys
}

func TestEnroll(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "host")
	if _, err := hostd.LoadIdentity(dir); !errors.Is(err, hostd.ErrNotEnrolled) {
		t.Fatalf("before: %v", err)
	}
	srv, keys := desk(t, domain.HostID{7})
	o := hostd.EnrollOptions{Server: srv.URL + "/", Token: "secret", Dir: dir, NATSPublicKey: "UABC", Client: srv.Client()}
	for range 2 { // the answer was lost: the same exchange again, with the same keys
		id, err := hostd.Enroll(t.Context(), o)
		if err != nil || id.Host != (domain.HostID{7}) {
			t.Fatalf("%+v %v", id, err)
		}
	}
	key, err := hostd.SigningKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := string(key.Public().(ed25519.PublicKey)) + "UABC"
	if len(*keys) != 2 || (*keys)[0] != want || (*keys)[1] != want {
		t.Error("the keys that were sent are not the keys that were kept")
	}
	id, err := hostd.LoadIdentity(dir)
	if err != nil || id.Site != "dev" || id.NATSURL == "" {
		t.Errorf("kept %+v %v", id, err)
	}
	if jwt, err := hostd.LoadSecret(dir, hostd.SecretNATSJWT); err != nil || string(jwt) != "jwt" {
		t.Errorf("jwt %q %v", jwt, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info.Mode(), err)
		}
	}
}

func TestEnrollRefusals(t *testing.T) {
	t.Parallel()
	srv, _ := desk(t, domain.HostID{7})
	good := hostd.EnrollOptions{Server: srv.URL, Token: "secret", NATSPublicKey: "UABC", Client: srv.Client()}
	for name, tt := range map[string]struct {
		change func(o *hostd.EnrollOptions)
		want   string
	}{
		"unknown token":       {func(o *hostd.EnrollOptions) { o.Token = "guess" }, "host.token_invalid: the enrolment token is unknown; body.token: expected length >= 10"},
		"no token":            {func(o *hostd.EnrollOptions) { o.Token = "" }, "token"},
		"not a URL":           {func(o *hostd.EnrollOptions) { o.Server = "gpu.example.org" }, "not the URL"},
		"in clear, elsewhere": {func(o *hostd.EnrollOptions) { o.Server = "http://gpu.example.org" }, "in clear"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := good
			o.Dir = t.TempDir()
			tt.change(&o)
			if _, err := hostd.Enroll(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "guess") {
				t.Errorf("err %v", err)
			}
		})
	}
}

func TestEnrollNeverMovesADirectoryToAnotherHost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, ok := range []bool{true, false} {
		srv, _ := desk(t, domain.HostID{byte(i + 1)})
		o := hostd.EnrollOptions{Server: srv.URL, Token: "secret", Dir: dir, NATSPublicKey: "UABC", Client: srv.Client()}
		if _, err := hostd.Enroll(t.Context(), o); (err == nil) != ok {
			t.Errorf("host %d: err %v", i+1, err)
		}
	}
}

func TestASecretThatOthersCanReadIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := hostd.SaveSecret(dir, "x", []byte("s")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := hostd.LoadSecret(dir, "x"); err == nil {
		t.Error("read")
	}
}
