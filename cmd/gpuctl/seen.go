package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// Between two runs the site's sequence is kept, so that a run sees what the one
// before it did. It is forgotten soon: by then every read model has caught up, and
// a site that was made anew is not asked for a future it does not have.

const (
	seenFor    = time.Minute
	maxSeen    = 16
	seenMaxLen = 64 << 10
)

type seen struct {
	Sequence uint64    `json:"sequence"`
	At       time.Time `json:"at"`
}

func (a *app) seenPath() string {
	return filepath.Join(first(a.getenv("XDG_CACHE_HOME"), filepath.Join(a.getenv("HOME"), ".cache")), "gpuctl", "seen.json")
}

// seenName tells sites and keys apart without saying what the key is.
func seenName(server, key string) string {
	sum := sha256.Sum256([]byte("gpuctl seen\x00" + server + "\x00" + key))
	return hex.EncodeToString(sum[:8])
}

func (a *app) loadSeen() map[string]seen {
	all := map[string]seen{}
	b, err := os.ReadFile(a.seenPath())
	if err == nil && len(b) <= seenMaxLen {
		_ = json.Unmarshal(b, &all) // a cache: what cannot be read is not there
	}
	now := time.Now()
	for name, s := range all {
		if now.Sub(s.At).Abs() > seenFor {
			delete(all, name)
		}
	}
	return all
}

func (a *app) recall() uint64 { return a.loadSeen()[a.seenAs].Sequence }

// remember is best effort.
func (a *app) remember() {
	if a.conn == nil || a.conn.Sequence() == 0 {
		return
	}
	all := a.loadSeen()
	if a.conn.Sequence() <= all[a.seenAs].Sequence || len(all) >= maxSeen {
		return
	}
	all[a.seenAs] = seen{a.conn.Sequence(), time.Now().UTC()}
	if b, err := json.Marshal(all); err == nil {
		_ = writePrivate(a.seenPath(), b)
	}
}
