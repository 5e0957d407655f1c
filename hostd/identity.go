package hostd

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// Identity is what a host knows of itself after enrolment.
type Identity struct {
	Host    domain.HostID `json:"host_id"`
	Site    string        `json:"site"`
	NATSURL string        `json:"nats_url"`
	NATSCA  string        `json:"nats_ca,omitempty"` // who signed its certificate, PEM; "": whom the machine trusts
}

// The files of an agent's directory that hold its identity, all with mode 0600.
// The private halves are made here and never leave.
const (
	SecretNATSSeed = "nats.seed" // the nkey of its connection
	SecretNATSJWT  = "nats.jwt"  // what the site says that connection may do
	identityFile   = "identity.json"
	signingKeyFile = "signing.key"
)

// ErrNotEnrolled is returned for a directory without an identity.
var ErrNotEnrolled = errors.New("this host is not enrolled: run hostd enroll")

// LoadIdentity reads who the host is. ErrNotEnrolled if nobody said.
func LoadIdentity(dir string) (*Identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotEnrolled)
	}
	id := new(Identity)
	if err == nil {
		err = json.Unmarshal(b, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read identity in %s: %w", dir, err)
	}
	if id.Host.IsZero() || id.Site == "" {
		return nil, fmt.Errorf("identity in %s names no host or no site", dir)
	}
	return id, nil
}

// SigningKey reads the key that signs the host's reports, or makes it.
func SigningKey(dir string) (ed25519.PrivateKey, error) {
	b, err := LoadSecret(dir, signingKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return newSigningKey(dir)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s in %s is not PEM", signingKeyFile, dir)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", signingKeyFile, dir, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s in %s is not an Ed25519 key", signingKeyFile, dir)
	}
	return ed, nil
}

func newSigningKey(dir string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, SaveSecret(dir, signingKeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// SaveSecret writes a file that only its owner can read, whole or not at all.
func SaveSecret(dir, name string, b []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, name), b); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// LoadSecret reads a file that SaveSecret wrote. It refuses one that others can
// read; fs.ErrNotExist if there is none.
func LoadSecret(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %v: others can read it, it must be 0600", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	return []byte(strings.TrimSpace(string(b))), err
}
