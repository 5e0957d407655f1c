package streams

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrSiteKey: what was wrapped with one site key is opened with another (or damaged).
var ErrSiteKey = errors.New("streams: another site key wrapped the vault's keys, or they are damaged")

// Check says whether the site key is the one that wraps the vault's data keys:
// [ErrSiteKey] if not. The first check of a site keeps a data key that belongs to
// nobody, so that every later one has something to compare with, also when all
// subjects are erased.
func (v *Vault) Check(ctx context.Context) error {
	m, err := lastBySubject(ctx, v.nc, v.site.VaultKeys(), v.site.keySubject("*"))
	switch {
	case err == nil:
		var name []byte
		if name, err = hex.DecodeString(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]); err == nil {
			_, err = v.unwrap(name, m.Data)
		}
	case errors.Is(err, ErrNotFound):
		err = nil
	}
	if err == nil {
		_, err = v.key(ctx, make([]byte, vaultName), true) // no subject's name: those are HMACs
	}
	if err != nil {
		return fmt.Errorf("vault: check the site key: %w", err)
	}
	return nil
}
