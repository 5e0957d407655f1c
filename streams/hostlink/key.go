package hostlink

import (
	"fmt"

	"github.com/nats-io/nkeys"
)

// NewKey makes a host's key: the seed, which stays on the host in a file of mode
// 0600, and the public part, for which the control plane issues the credential.
func NewKey() (seed []byte, public string, err error) {
	k, err := nkeys.CreateUser()
	if err != nil {
		return nil, "", fmt.Errorf("make a host key: %w", err)
	}
	if seed, err = k.Seed(); err == nil {
		public, err = k.PublicKey()
	}
	if err != nil {
		return nil, "", fmt.Errorf("make a host key: %w", err)
	}
	return seed, public, nil
}

// SignWith is Options.Sign for a seed kept by the caller.
func SignWith(seed []byte) (func(nonce []byte) ([]byte, error), error) {
	k, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	return k.Sign, nil
}
