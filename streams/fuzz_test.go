package streams

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
)

// FuzzFeedMessage: a message of the feed is read or refused by its number, whatever
// its header is.
func FuzzFeedMessage(f *testing.F) {
	f.Add([]byte("NATS/1.0\r\n"+headerType+": slot.wiped\r\n"+headerID+": 7\r\n"+headerCommit+": 3\r\n"+headerCommitHash+": "+domain.DigestOf(nil).String()+"\r\n"+headerTime+": 2026-01-02T03:04:05Z\r\n\r\n"), []byte("{}"))
	f.Add([]byte("NATS/1.0 503\r\n\r\n"), []byte{})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, head, data []byte) {
		h, err := nats.DecodeHeadersMsg(head)
		if err != nil {
			return
		}
		if e, err := parseEvent(1, "ev.x", h, data); err == nil && e.Type != h.Get(headerType) {
			t.Fatalf("%+v", e)
		}
	})
}

// FuzzReply: what an acknowledgement or a host's answer says is a number, bytes or a
// refusal.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"stream":"LOG_x","seq":7}`))
	f.Add([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence"}}`))
	f.Add([]byte(`{"kind":"not_found","code":"x.y","message":"m"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if seq, err := parseAck(b); err == nil && seq == 0 {
			t.Fatal("no number, and no error")
		}
		_, err := ParseReply(&nats.Msg{Header: nats.Header{headerRefusal: {string(b)}}, Data: []byte("data")})
		var refused *domain.Error
		if err == nil && len(b) > 0 {
			t.Fatal("a refusal that is none")
		}
		if errors.As(err, &refused) && refused.Kind.String() == "" {
			t.Fatalf("%+v", refused)
		}
		_, _ = ParseSite(string(b))
		_, _ = parseHost(string(b))
	})
}
