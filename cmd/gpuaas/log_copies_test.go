package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/streams"
)

// What log verify says of a cluster's copies: the way out is another one when more than
// one is damaged.
func TestCopiesSaid(t *testing.T) {
	t.Parallel()
	bad := errors.New("message 8 cannot be read")
	for name, c := range map[string]struct {
		copies []streams.Copy
		said   string
		err    string
	}{
		"one server":      {nil, "", ""},
		"whole":           {[]streams.Copy{{Server: "a"}, {Server: "b"}}, "copies of the log: whole on a, b\n", ""},
		"one is away":     {[]streams.Copy{{Server: "a"}, {Server: "b", Offline: true}}, "copies of the log: whole on a; not read, since they are not up to date: b\n", ""},
		"one is damaged":  {[]streams.Copy{{Server: "a"}, {Server: "b", Err: bad}, {Server: "c"}}, "", "on server b is damaged, and not that of a, c: stop the first, remove"},
		"two are damaged": {[]streams.Copy{{Server: "a"}, {Server: "b", Err: bad}, {Server: "c", Err: bad}}, "", "on the servers b, c are damaged: remove nothing"},
		"none is whole":   {[]streams.Copy{{Server: "a", Err: bad}, {Server: "b", Offline: true}}, "", "on the servers a are damaged: remove nothing"},
	} {
		said, err := copiesSaid("log", c.copies, nil)
		if said != c.said || (err == nil) != (c.err == "") || err != nil && !(strings.Contains(err.Error(), c.err) && errors.Is(err, bad)) {
			t.Errorf("%s: %q, %v", name, said, err)
		}
	}
}
