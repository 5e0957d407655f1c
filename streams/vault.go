package streams

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// MaxDocumentBytes bounds a vault document before encryption.
const MaxDocumentBytes = 1 << 20

// Vault keeps what must be erasable: names, e-mail addresses, free text, user data.
// A document is encrypted with AES-256-GCM under the data key of its subject (a
// person, a tenant); the data key is wrapped, with the same cipher, by the site's
// key, and lives in a stream of its own that is never mirrored. Destroying a data
// key erases its subject wherever documents were copied to.
//
// The log names a document by the digest of its ciphertext, which says nothing
// about the plaintext. Data keys are not kept in memory, so that an erasure holds
// in every process at once.
type Vault struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	site Names
	wrap cipher.AEAD
	hide []byte // key of the names under which subjects' keys are kept
}

// ErrErased: the key of the document's subject is destroyed. It is an fs.ErrNotExist.
var ErrErased = fmt.Errorf("streams: erased: %w", fs.ErrNotExist)

// The layout of a stored document and of a stored key:
//
//	document  version 1 | subject name, 32 | nonce, 12 | ciphertext and tag
//	key       version 1 | nonce, 12 | wrapped key and tag
//
// The subject's name is the additional data of both.
const (
	vaultVersion  = 1
	vaultNonce    = 12
	vaultName     = 32
	documentFront = 1 + vaultName + vaultNonce

	// keyAttempts bounds the wait for a key that another process is making: on three
	// replicas it is refused before it can be read.
	keyAttempts = 100
)

// OpenVault connects. siteKey wraps the data keys; with another one nothing that
// was put can be read.
func OpenVault(dial Dial, site Names, siteKey [32]byte) (*Vault, error) {
	wrap, err := newGCM(derive(siteKey, "vault wrap"))
	if err != nil {
		return nil, err
	}
	nc, js, err := connectJetStream(dial, "vault")
	if err != nil {
		return nil, err
	}
	return &Vault{nc: nc, js: js, site: site, wrap: wrap, hide: derive(siteKey, "vault names")}, nil
}

// Close drops the connection.
func (v *Vault) Close() { v.nc.Close() }

// Put encrypts and keeps a document under its subject's key, and returns the digest
// that names it. It is durable when Put returns; only then may a command carry the
// digest. [ErrTooLarge] above 1 MiB.
func (v *Vault) Put(ctx context.Context, subject string, plaintext []byte) (domain.Digest, error) {
	if subject == "" {
		return domain.Digest{}, errors.New("vault: no subject")
	}
	if len(plaintext) > MaxDocumentBytes {
		return domain.Digest{}, fmt.Errorf("%w: a document of %d bytes", ErrTooLarge, len(plaintext))
	}
	name := v.name(subject)
	key, err := v.key(ctx, name, true)
	if err != nil {
		return domain.Digest{}, fmt.Errorf("vault: %w", err)
	}
	doc := make([]byte, documentFront, documentFront+len(plaintext)+16)
	doc[0] = vaultVersion
	copy(doc[1:], name)
	nonce := doc[1+vaultName:]
	_, _ = rand.Read(nonce) // never fails (crypto/rand, Go 1.24)
	doc = key.Seal(doc, nonce, plaintext, name)
	digest := domain.DigestOf(doc)
	if err := v.keep(ctx, v.site.documentSubject(hex.EncodeToString(digest[:])), doc, nil); err != nil {
		return domain.Digest{}, fmt.Errorf("vault: put: %w", err)
	}
	return digest, nil
}

// Get returns a document. [ErrNotFound] if there is none of that digest, [ErrErased]
// if its subject was erased.
func (v *Vault) Get(ctx context.Context, digest domain.Digest) ([]byte, error) {
	m, err := lastBySubject(ctx, v.nc, v.site.Vault(), v.site.documentSubject(hex.EncodeToString(digest[:])))
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	doc := m.Data
	if domain.DigestOf(doc) != digest || len(doc) < documentFront || doc[0] != vaultVersion {
		return nil, fmt.Errorf("vault: document %s is damaged", digest)
	}
	name, nonce := doc[1:1+vaultName], doc[1+vaultName:documentFront]
	key, err := v.key(ctx, name, false)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("vault: document %s: %w", digest, ErrErased)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	plain, err := key.Open(nil, nonce, doc[documentFront:], name)
	if err != nil {
		// A key made after the erasure, for the same subject.
		return nil, fmt.Errorf("vault: document %s: %w", digest, ErrErased)
	}
	return plain, nil
}

// Erase destroys a subject's data key: no document put before can be read again. A
// repeat, and a subject that has none, is no error. The key's bytes are overwritten
// in the stream's files; a document put later gets a new key.
func (v *Vault) Erase(ctx context.Context, subject string) error {
	s, err := v.js.Stream(ctx, v.site.VaultKeys())
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	for { // ends when no key is found: each round removes one
		m, err := lastBySubject(ctx, v.nc, v.site.VaultKeys(), v.keyName(v.name(subject)))
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err == nil {
			err = s.SecureDeleteMsg(ctx, m.Seq)
		}
		if err != nil {
			return fmt.Errorf("vault: erase: %w", err)
		}
	}
}

// name hides the subject: the vault's own streams show no ids of people.
func (v *Vault) name(subject string) []byte {
	m := hmac.New(sha256.New, v.hide)
	m.Write([]byte(subject))
	return m.Sum(nil)
}

func (v *Vault) keyName(name []byte) string { return v.site.keySubject(hex.EncodeToString(name)) }

// key is a subject's data key. Of two processes that make the first one at once,
// one wins by the stream's check, and both use its key.
func (v *Vault) key(ctx context.Context, name []byte, create bool) (cipher.AEAD, error) {
	for range keyAttempts {
		m, err := lastBySubject(ctx, v.nc, v.site.VaultKeys(), v.keyName(name))
		if err == nil {
			return v.unwrap(name, m.Data)
		}
		if !errors.Is(err, ErrNotFound) || !create {
			return nil, err
		}
		var fresh [32]byte
		_, _ = rand.Read(fresh[:])
		stored := make([]byte, 1+vaultNonce, 1+vaultNonce+32+16)
		stored[0] = vaultVersion
		_, _ = rand.Read(stored[1:])
		stored = v.wrap.Seal(stored, stored[1:1+vaultNonce], fresh[:], name)
		err = v.keep(ctx, v.keyName(name), stored, nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}})
		if err == nil {
			return newGCM(fresh[:])
		}
		if !isWrongSequence(err) {
			return nil, fmt.Errorf("make a data key: %w", err)
		}
		if !wait(ctx, 20*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
	return nil, errors.New("make a data key: it appears and disappears")
}

func (v *Vault) unwrap(name, stored []byte) (cipher.AEAD, error) {
	if len(stored) < 1+vaultNonce || stored[0] != vaultVersion {
		return nil, errors.New("a data key is damaged")
	}
	key, err := v.wrap.Open(nil, stored[1:1+vaultNonce], stored[1+vaultNonce:], name)
	if err != nil {
		return nil, ErrSiteKey
	}
	return newGCM(key)
}

// keep publishes and waits for the acknowledgement, which is durable: these two
// streams are synced like the log.
func (v *Vault) keep(ctx context.Context, subject string, data []byte, h nats.Header) error {
	ctx, cancel := ask(ctx)
	defer cancel()
	reply, err := v.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: data, Header: h})
	if err != nil {
		return err
	}
	_, err = parseAck(reply.Data)
	return err
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// derive makes a key for one purpose out of the site's key.
func derive(siteKey [32]byte, purpose string) []byte {
	m := hmac.New(sha256.New, siteKey[:])
	m.Write([]byte(purpose))
	return m.Sum(nil)
}
