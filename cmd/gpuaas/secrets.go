package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

// secretName is the file with the site secret.
const secretName = "site.secret"

// siteSecret is made at the first start and never leaves the data directory. All
// one-time secrets and the vault's key derive from it: it is backed up with the
// vault, and kept apart from the log.
func siteSecret(dir string) (secret [32]byte, err error) {
	path := filepath.Join(dir, secretName)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, "nats", "jetstream")); err == nil {
			return secret, fmt.Errorf("%s is missing, but the site's log is there: restore it from the backup; with another one no document of the vault could be read", path)
		}
		if _, err := rand.Read(secret[:]); err != nil {
			return secret, err
		}
		return secret, writeFile(path, secret[:])
	case err != nil:
		return secret, err
	case len(b) != 32:
		return secret, fmt.Errorf("%s has %d bytes, want 32: restore it from the backup", path, len(b))
	}
	copy(secret[:], b)
	return secret, nil
}

// refuseWrongSecret compares the secret with the one that the vault was begun with:
// with another one its documents could not be read, and keys and cursors would
// derive from what no backup holds.
func (s *site) refuseWrongSecret(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := s.vault.Check(ctx)
	if errors.Is(err, streams.ErrSiteKey) {
		return fmt.Errorf("%s is not the secret of this site: %w: restore the one that belongs to these streams; nothing was written", filepath.Join(s.cfg.DataDir, secretName), err)
	}
	return err
}

// writeFile writes a private file so that it is there completely or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// derive makes a key for one purpose from the site secret.
func derive(secret [32]byte, purpose string) (key [32]byte) {
	m := hmac.New(sha256.New, secret[:])
	m.Write([]byte(purpose))
	copy(key[:], m.Sum(nil))
	return key
}

// bootstrap makes the first operator of a new site and writes its key to
// admin.key. A site that has another operator is left alone; a lost file is written
// again as long as the bootstrap key is not revoked.
func (s *site) bootstrap(ctx context.Context) error {
	token := s.adminKey()
	user, hash := domain.UserID(fixedID("bootstrap operator of "+s.cfg.Site)), domain.DigestOf([]byte(token))
	begun := false
	if _, err := s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		_, made := w.KeyByHash(hash)
		// The first operator has no key yet if the process ended in between.
		begun = made || w.Operators() > 0 && !(w.Operators() == 1 && w.IsOperator(user))
	}); err != nil {
		return err
	}
	if !begun {
		if r := s.submit(ctx, &domain.SetOperator{User: user, Roles: domain.RoleOperator | domain.RoleFinance | domain.RoleAuditor}); r.Err != nil {
			return r.Err
		}
		if r := s.submit(ctx, &domain.CreateAPIKey{User: user, Name: "bootstrap", Hash: hash}); r.Err != nil {
			return r.Err
		}
	}
	return s.keepAdminKey()
}

func (s *site) adminKey() string { return api.KeySecret(derive(s.secret, "api"), fixedID("bootstrap")) }

func (s *site) adminKeyWorks() bool {
	_, ok := s.member.Caller(domain.DigestOf([]byte(s.adminKey())), domain.TimeOf(s.clock()))
	return ok
}

// keepAdminKey writes the file, if it is lost and the key works. Another text in it may be
// damage, or somebody's choice.
func (s *site) keepAdminKey() error {
	path := filepath.Join(s.cfg.DataDir, "admin.key")
	if !s.adminKeyWorks() {
		return nil
	}
	switch b, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
		return writeFile(path, []byte(s.adminKey()+"\n"))
	case err == nil && strings.TrimSpace(string(b)) != s.adminKey():
		s.log.Warn("this is not the bootstrap operator's key, which works: remove the file, and it is written again", "file", path)
	}
	return nil
}

// fixedID is the command id that a secret of the site's own making derives from.
func fixedID(of string) (id domain.CommandID) {
	h := domain.DigestOf([]byte(of))
	copy(id[:], h[:])
	return id
}

// submit decides a command of the control plane itself.
func (s *site) submit(ctx context.Context, body domain.CommandBody) commands.Reply {
	cmd := &domain.Command{Actor: domain.System, Body: body}
	var e domain.Entropy
	_, _ = rand.Read(e[:])
	cmd.ID = commands.NewCommandID(s.clock(), e)
	return s.member.Submit(ctx, cmd)
}
