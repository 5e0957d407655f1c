package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

// Trust is a folder with the site's keys and JWTs:
//
//	operator.jwt  SYS.jwt  SITE.jwt          public: all that a server needs
//	operator.nk  SYS.nk  SITE.nk             seeds, mode 0600: set-up and revocation
//	sign-<role>.nk                           seeds of the scoped signing keys
//	<role>.creds                             a credential for each role but Host
//
// A process gets only the files its work needs. What is missing is noticed when it
// is asked for.
type Trust struct {
	dir  string
	site streams.Names

	mu      sync.Mutex
	account *jwt.AccountClaims // SITE
}

// The names of the two accounts.
const (
	siteAccount   = "SITE"
	systemAccount = "SYS"
)

// OpenTrust reads the trust of a site from dir, or makes it there if the folder
// holds none. The account's JWT is signed again when this build gives a role other
// rights than the build that wrote it, if the operator's seed is at hand.
func OpenTrust(dir, site string) (*Trust, error) {
	n, err := streams.ParseSite(site)
	if err != nil {
		return nil, err
	}
	t := &Trust{dir: dir, site: n}
	if _, err := os.Stat(t.path(siteAccount + ".jwt")); errors.Is(err, fs.ErrNotExist) {
		if err := t.create(); err != nil {
			return nil, fmt.Errorf("create trust of site %s: %w", site, err)
		}
	}
	if err := t.intact(); err != nil {
		return nil, err
	}
	text, err := t.read(siteAccount + ".jwt")
	if err != nil {
		return nil, err
	}
	if t.account, err = jwt.DecodeAccountClaims(text); err != nil {
		return nil, fmt.Errorf("trust of site %s: %w", site, err)
	}
	if want := siteAccount + " " + site; t.account.Name != want {
		return nil, fmt.Errorf("trust in %s is for account %q, want %q", dir, t.account.Name, want)
	}
	return t, t.refresh()
}

// intact reads every file that is there: one that is damaged would be noticed only when a
// host enrols, or another process starts.
func (t *Trust) intact() error {
	files, err := os.ReadDir(t.dir)
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		text, err := t.read(f.Name())
		if err != nil {
			return err
		}
		switch filepath.Ext(f.Name()) {
		case ".nk":
			_, err = nkeys.FromSeed([]byte(text))
		case ".jwt":
			_, err = jwt.Decode(text)
		case ".creds":
			err = streams.CheckCreds([]byte(text))
		}
		if err != nil {
			return fmt.Errorf("trust: %s is damaged, restore it from the backup: %w", t.path(f.Name()), err)
		}
	}
	return nil
}

func (t *Trust) path(name string) string { return filepath.Join(t.dir, name) }

func (t *Trust) read(name string) (string, error) {
	b, err := os.ReadFile(t.path(name))
	if err != nil {
		return "", fmt.Errorf("trust: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// write replaces a file as a whole, so that a crash leaves the old one or the new.
func (t *Trust) write(name, text string) error {
	f, err := os.CreateTemp(t.dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), t.path(name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("trust: write %s: %w", name, err)
	}
	return nil
}

func (t *Trust) key(name string) (nkeys.KeyPair, error) {
	seed, err := t.read(name + ".nk")
	if err != nil {
		return nil, err
	}
	return nkeys.FromSeed([]byte(seed))
}

// newKey makes a key, keeps its seed, and returns its public part too.
func (t *Trust) newKey(name string, prefix nkeys.PrefixByte) (nkeys.KeyPair, string, error) {
	k, err := nkeys.CreatePair(prefix)
	if err != nil {
		return nil, "", err
	}
	seed, err := k.Seed()
	if err != nil {
		return nil, "", err
	}
	pub, err := k.PublicKey()
	if err != nil {
		return nil, "", err
	}
	return k, pub, t.write(name+".nk", string(seed))
}

// create makes operator, accounts, signing keys and credentials. SITE.jwt comes
// last: while it is missing a start begins again.
func (t *Trust) create() error {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	operator, operatorPub, err := t.newKey("operator", nkeys.PrefixByteOperator)
	if err != nil {
		return err
	}
	sysKey, sysPub, err := t.newKey(systemAccount, nkeys.PrefixByteAccount)
	if err != nil {
		return err
	}
	_, sitePub, err := t.newKey(siteAccount, nkeys.PrefixByteAccount)
	if err != nil {
		return err
	}

	oc := jwt.NewOperatorClaims(operatorPub)
	oc.Name, oc.SystemAccount = "gpuaas "+string(t.site), sysPub
	if err := t.sign("operator.jwt", oc, operator); err != nil {
		return err
	}
	sys := jwt.NewAccountClaims(sysPub)
	sys.Name = systemAccount
	if err := t.sign(systemAccount+".jwt", sys, operator); err != nil {
		return err
	}
	if err := t.credential(System, sysKey, sysPub, false); err != nil {
		return err
	}

	site := jwt.NewAccountClaims(sitePub)
	site.Name = siteAccount + " " + string(t.site)
	site.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	for _, role := range siteRoles {
		k, pub, err := t.newKey("sign-"+string(role), nkeys.PrefixByteAccount)
		if err != nil {
			return err
		}
		site.SigningKeys.AddScopedSigner(&jwt.UserScope{
			Kind: jwt.UserScopeType, Key: pub, Role: string(role), Template: rights(role, t.site),
		})
		if role == Host {
			continue
		}
		if err := t.credential(role, k, sitePub, true); err != nil {
			return err
		}
	}
	return t.sign(siteAccount+".jwt", site, operator)
}

func (t *Trust) sign(name string, c jwt.Claims, by nkeys.KeyPair) error {
	text, err := c.Encode(by)
	if err != nil {
		return err
	}
	return t.write(name, text)
}

// credential makes a user of a role and writes its JWT and seed to one file.
func (t *Trust) credential(role Role, by nkeys.KeyPair, account string, scoped bool) error {
	k, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	pub, err := k.PublicKey()
	if err != nil {
		return err
	}
	seed, err := k.Seed()
	if err != nil {
		return err
	}
	uc := jwt.NewUserClaims(pub)
	uc.Name = string(role)
	if scoped {
		uc.IssuerAccount, uc.UserPermissionLimits = account, jwt.UserPermissionLimits{}
	}
	text, err := uc.Encode(by)
	if err != nil {
		return err
	}
	creds, err := jwt.FormatUserConfig(text, seed)
	if err != nil {
		return err
	}
	return t.write(string(role)+".creds", string(creds))
}

// refresh signs SITE again if a role's rights are not this build's.
func (t *Trust) refresh() error {
	stale := false
	for key, scope := range t.account.SigningKeys {
		us, ok := scope.(*jwt.UserScope)
		if !ok {
			return fmt.Errorf("trust: signing key %s of account %s has no scope: it could sign anything", key, t.account.Name)
		}
		if want := rights(Role(us.Role), t.site); !sameRights(us.Template, want) {
			us.Template, stale = want, true
		}
	}
	if !stale {
		return nil
	}
	operator, err := t.key("operator")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("trust: the rights in %s.jwt are of another build; sign it again where operator.nk is kept", siteAccount)
	}
	if err != nil {
		return err
	}
	return t.sign(siteAccount+".jwt", t.account, operator)
}

// CredsFile is the path of a role's credential.
func (t *Trust) CredsFile(role Role) string { return t.path(string(role) + ".creds") }

// HostCredential issues the JWT with which a host proves who it is: its name is the
// host's id, and its rights are exactly the host role's. userPublicNkey is the
// public part of the key the host made; the seed never leaves it.
func (t *Trust) HostCredential(host domain.HostID, userPublicNkey string) (string, error) {
	if host.IsZero() {
		return "", errors.New("host credential: no host")
	}
	if !nkeys.IsValidPublicUserKey(userPublicNkey) {
		return "", fmt.Errorf("host credential: %.70q is not a public user nkey", userPublicNkey)
	}
	k, err := t.key("sign-" + string(Host))
	if err != nil {
		return "", err
	}
	uc := jwt.NewUserClaims(userPublicNkey)
	uc.Name = host.String()
	uc.IssuerAccount, uc.UserPermissionLimits = t.account.Subject, jwt.UserPermissionLimits{}
	return uc.Encode(k)
}

// Revoke ends the credentials of public user nkeys, for JWTs issued until now, all at
// once: connections that use them are closed and new ones refused, on every server that
// system reaches. system is a connection with the System credential. The
// revocation is on disk before it is handed out.
func (t *Trust) Revoke(ctx context.Context, system *nats.Conn, userPublicNkeys ...string) error {
	for _, key := range userPublicNkeys {
		if !nkeys.IsValidPublicUserKey(key) {
			return fmt.Errorf("revoke: %.70q is not a public user nkey", key)
		}
	}
	operator, err := t.key("operator")
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range userPublicNkeys {
		t.account.RevokeAt(key, time.Now())
	}
	if err := t.sign(siteAccount+".jwt", t.account, operator); err != nil {
		return err
	}
	text, err := t.read(siteAccount + ".jwt")
	if err != nil {
		return err
	}
	return push(ctx, system, text)
}
