package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// junk are values that fit no schema, or only just.
var junk = []string{
	`null`, `true`, `[]`, `{}`, `""`, `"\u0000"`, `"\ud800"`, `-1`, `0`, `1.5`, `1e400`, `-0`, `1e308`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`,
	`18446744073709551616`, `0.1e-400`, `[[[[[[1]]]]]]`, `{"a":{"b":{"c":{}}}}`, `"../../etc/passwd"`, `"' OR 1=1 --"`, "\"\x00\"", "\"\xff\xfe\"", `"\u202e"`, `NaN`, `01`, `'x'`, `"2026-02-30T25:61:61Z"`,
	`"9999999-01-01T00:00:00Z"`, `"0000-01-01T00:00:00Z"`, `"ten_zzzzzzzzzzzzzzzzzzzzzzzzzz"`, `["x","x","x"]`, `{"":""}`, `"` + strings.Repeat("a", 5000) + `"`, "[" + strings.Repeat("1,", 5000) + "1]",
}

// words are what may stand in paths, queries and headers.
var words = []string{
	"", "x", "0", "-1", "1e9", "99999999999999999999", "%00", "%ff%fe", "%2e%2e%2f", "..", "%", "%zz", "%F0%28%8C%28", "'", "a,b,c", strings.Repeat(",", 100), "ten_0", "ten_zzzzzzzzzzzzzzzzzzzzzzzzzz",
	"latest", "%20", "AAAAAAAAAAAAAAAAAAAAAA", "////////////////////////", "true", "null", "2026-01-01T00:00:00Z", "9999-99-99", strings.Repeat("A", 300), strings.Repeat("9", 5000), "9223372036854775807", "1;2", "a=b", "+", "%0d%0a",
}

// attacker sends requests as bytes, on one connection as long as it is kept.
type attacker struct {
	*world
	api     *openAPI
	keys    []string
	conn    net.Conn
	in      *bufio.Reader
	answers map[int]uint64
	counts  map[string]uint64
}

func newAttacker(t testing.TB) *attacker {
	a := &attacker{world: newTestWorld(t), answers: map[int]uint64{}, counts: map[string]uint64{}}
	a.server.o.Deadline = 200 * time.Millisecond // what waits for a far commit
	a.api = a.openAPI()
	a.keys = []string{a.admin, a.admin, a.acme.owner, a.acme.owner, a.other.owner, a.acme.viewer, a.revoked, ""}
	t.Cleanup(a.hangUp)
	return a
}

func (a *attacker) hangUp() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

func pickOne[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// hostile makes one request of a route that has one or a few things wrong, and says
// whether it may not be whole: nothing can follow it on its connection.
func (a *attacker) hostile(r *rand.Rand, d *documented) (request []byte, torn bool) {
	path, query, body := d.path, url.Values{}.Encode(), a.body(r, d)
	for _, name := range d.holes() {
		id := a.mine("{" + name + "}")
		if name == "s" && strings.Contains(path, "/skus/") {
			id = a.sku
		}
		if r.IntN(8) == 0 {
			id = pickOne(r, words)
		}
		path = strings.ReplaceAll(path, "{"+name+"}", id)
	}
	for _, p := range d.params {
		if p.In == "query" && r.IntN(5) == 0 {
			query += "&" + p.Name + "=" + pickOne(r, words)
		}
	}
	h := []string{"Host: x", "Authorization: Bearer " + pickOne(r, a.keys)}
	if body != nil {
		h = append(h, "Content-Type: application/json")
	}
	version, length := "HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(body))
	for range r.IntN(3) {
		wrong := r.IntN(16)
		torn = torn || wrong == 11 || wrong >= 14
		switch wrong {
		case 0:
			path += "/" + pickOne(r, words)
		case 1:
			path += strings.Repeat("/a", r.IntN(1000))
		case 2:
			query += "&" + pickOne(r, words) + "=" + pickOne(r, words) + "&&&=&;"
		case 3:
			query += "&cursor=" + pickOne(r, words) + "&after=" + pickOne(r, words) + "&limit=" + pickOne(r, words) + "&at_least=" + pickOne(r, words)
		case 4:
			h = append(h, "Content-Type: "+pickOne(r, []string{"", "text/plain", "application/json; charset=\xff", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "a/b/c", ";", "application/cbor"}))
		case 5:
			h = append(h, "Idempotency-Key: "+pickOne(r, []string{"", "\xff\xfe", "\t", strings.Repeat("k", 256), strings.Repeat("k", 8000), "k\x7f", "ключ"}))
		case 6:
			h = append(h, "Command-Id: "+pickOne(r, []string{"", "cmd_", "cmd_00000000000000000000000000", "cmd_zzzzzzzzzzzzzzzzzzzzzzzzzz", strings.Repeat("c", 9000), "cmd_0000000000e000000000000000"}))
		case 7:
			h = append(h, "Last-Event-ID: "+pickOne(r, words))
		case 8:
			h = append(h, "X-Request-Id: "+pickOne(r, []string{"\xff", strings.Repeat("i", 65), "a b", "<script>"}), "Accept: "+pickOne(r, []string{"", "*/*", "text/html", "a", strings.Repeat("a/b,", 500), "application/cbor", "text/event-stream"}))
		case 9:
			h = append(h, "X-Big: "+strings.Repeat("x", r.IntN(60<<10)))
		case 10:
			for i := range r.IntN(500) {
				h = append(h, fmt.Sprintf("X-%d: y", i))
			}
		case 11:
			h = append(h, pickOne(r, []string{"no colon", ": no name", "Bad Name: x", "X: a\x00b", " folded", "Host: y", "Content-Length: 1", "Transfer-Encoding: gzip", "Expect: 200-maybe", "Upgrade: h2c", "Connection: close, x", "Content-Encoding: gzip"}))
		case 12:
			h[1] = "Authorization: " + pickOne(r, []string{"", "Bearer", "Bearer ", "Basic YTpi", "bearer \xff", "Bearer " + strings.Repeat("k", 257), "Bearer a b c", "Bearer\t" + a.admin})
		case 13:
			version = pickOne(r, []string{"HTTP/1.0", "HTTP/0.9", "HTTP/9.9", "HTTP/1.1 ", "", "http/1.1"})
		case 14: // chunks, good and bad
			length = "Transfer-Encoding: chunked"
			body = fmt.Appendf(nil, pickOne(r, []string{"%x\r\n%s\r\n0\r\n\r\n", "%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n", "-%x\r\n%s\r\n0\r\n\r\n", "zz%x\r\n%s\r\n\r\n", "ffffffffffffffff%x\r\n%s\r\n"}), len(body), body)
		case 15:
			length = pickOne(r, []string{"Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 300000", "Content-Length: x", "Content-Length: 0"})
		}
	}
	method := d.method
	if r.IntN(40) == 0 {
		method = pickOne(r, []string{"GET", "POST", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "get", strings.Repeat("M", 5000), "\x00"})
	}
	h = append(h, length)
	return fmt.Appendf(nil, "%s %s?%s %s\r\n%s\r\n\r\n%s", method, path, query, version, strings.Join(h, "\r\n"), body), torn
}

// body makes a body that has something wrong more often than not.
func (a *attacker) body(r *rand.Rand, d *documented) []byte {
	if d.body == nil && r.IntN(3) > 0 {
		return nil
	}
	v := a.api.value(r, "", d.body, func(name string) (string, bool) { return "", false })
	b, err := json.Marshal(v)
	if good, ok := bodies[d.name()]; ok && r.IntN(2) == 0 || err != nil {
		b = []byte(good)
	}
	for range r.IntN(3) {
		switch r.IntN(12) {
		case 0:
			b = b[:r.IntN(len(b)+1)]
		case 1:
			if len(b) > 0 {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
		case 2:
			at := r.IntN(len(b) + 1)
			b = slices.Concat(b[:at], []byte(pickOne(r, []string{"\x00", "\xff", "\\", "\"", "{", "]", "\ufeff", "\xed\xa0\x80"})), b[at:])
		case 3:
			b = []byte(pickOne(r, junk))
		case 4: // a leaf becomes junk
			var m map[string]any
			if json.Unmarshal(b, &m) == nil && len(m) > 0 {
				for k := range d.fields(a.api) {
					if r.IntN(2) == 0 {
						raw, _ := json.Marshal(m)
						b = fmt.Appendf(nil, "%s,%q:%s}", bytes.TrimSuffix(raw, []byte("}")), k, pickOne(r, junk))
						break
					}
				}
			}
		case 5:
			b = fmt.Appendf(nil, "%s,%q:%s}", bytes.TrimSuffix(b, []byte("}")), pickOne(r, []string{"surprise", "$schema", "", "__proto__", strings.Repeat("n", 3000)}), pickOne(r, junk))
		case 6:
			n := r.IntN(3000)
			b = []byte(strings.Repeat("[", n) + strings.Repeat("]", n))
		case 7:
			n := r.IntN(20)
			b = fmt.Appendf(nil, "%s%s%s", strings.Repeat(`{"a":`, n), b, strings.Repeat("}", n))
		case 8:
			b = append(b, b...)
		case 9:
			b = append([]byte("\ufeff"), b...)
		case 10:
			b = nil
		case 11:
			if r.IntN(20) == 0 {
				b = fmt.Appendf(nil, `{"name":%q}`, strings.Repeat("x", r.IntN(400<<10)))
			}
		}
	}
	return b
}

// fields are the names in a route's body.
func (d *documented) fields(a *openAPI) map[string]*schemaNode {
	n := d.body
	for n != nil && n.Ref != "" {
		n = a.schemas[strings.TrimPrefix(n.Ref, "#/components/schemas/")]
	}
	if n == nil {
		return nil
	}
	return n.Properties
}

func (a *attacker) strike(r *rand.Rand, d *documented) {
	a.t.Helper()
	request, torn := a.hostile(r, d)
	a.hit(d, request, torn)
}

// hit sends the bytes. The answer is any but a failure of ours; a connection may be
// closed without one, because a server that has heard enough does not read the rest.
func (a *attacker) hit(d *documented, request []byte, torn bool) {
	a.t.Helper()
	if a.conn == nil {
		c, err := net.Dial("tcp", a.http.Listener.Addr().String())
		if err != nil {
			a.t.Fatal(err)
		}
		a.conn, a.in = c, bufio.NewReader(c)
	}
	_ = a.conn.SetDeadline(time.Now().Add(time.Minute))
	wrote := make(chan struct{})
	go func(c net.Conn) { // the answer may come before everything is sent
		defer close(wrote)
		if _, err := c.Write(request); err == nil && torn {
			_ = c.(*net.TCPConn).CloseWrite() // what is announced and does not come, does not come
		}
	}(a.conn)
	a.counts[d.name()]++
	method, _, _ := bytes.Cut(request, []byte(" "))
	status, more, err := a.answer(string(method))
	if torn || !more || err != nil {
		a.hangUp()
	}
	<-wrote
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		a.t.Errorf("%v, to %.600q", err, request)
	}
	a.answers[status]++
}

// answer reads one answer and judges it; 0: there was none. more: the connection is
// good for another one.
func (a *attacker) answer(method string) (status int, more bool, _ error) {
	for {
		res, err := http.ReadResponse(a.in, &http.Request{Method: method})
		if err != nil {
			return 0, false, err
		}
		if res.StatusCode < 200 {
			continue
		}
		if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			return res.StatusCode, false, nil // it would go on for ever
		}
		b, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
		if res.StatusCode >= 300 && len(b) > 16<<10 {
			return 0, false, fmt.Errorf("a refusal of %d bytes", len(b))
		}
		var p Problem
		switch known := json.Unmarshal(b, &p) == nil && p.Code != ""; {
		case res.StatusCode < 500, res.StatusCode == 503 && known && p.Retryable:
		case (res.StatusCode == 501 || res.StatusCode == 505) && !known: // net/http's: no such coding, no such version
		default:
			return 0, false, fmt.Errorf("%d %.600s", res.StatusCode, b)
		}
		return res.StatusCode, !res.Close, err
	}
}

// heap is what is live after a collection.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMalformed: whatever bytes come, the site does not fail, does not fall over, and
// keeps nothing of them.
func TestMalformed(t *testing.T) {
	if !*hostileLong {
		t.Parallel()
	}
	a := newAttacker(t)
	if !*hostileLong {
		r := rand.New(rand.NewPCG(1, 0))
		for range 15 {
			for i := range a.api.routes {
				a.strike(r, &a.api.routes[i])
			}
		}
		a.sound()
		return
	}
	const each, goal = 100, 10_000
	c := openCampaign(t, "malformed")
	first, before, stored := true, heap(), a.stored()
	for began := time.Now(); time.Since(began) < *hostileFor && !t.Failed(); {
		done := true
		r := rand.New(rand.NewPCG(1000+c.Parts, 0))
		for i := range a.api.routes {
			d := &a.api.routes[i]
			if c.Counts[d.name()] >= goal {
				continue
			}
			done = false
			for range each {
				a.strike(r, d)
			}
			c.Counts[d.name()] += each
		}
		if done {
			break
		}
		if first { // what is made once is made
			first, before, stored = false, heap(), a.stored()
		}
		c.Parts++
		if !t.Failed() {
			c.keep(t)
		}
	}
	a.sound()
	total, least := uint64(0), uint64(goal)
	for i := range a.api.routes {
		n := c.Counts[a.api.routes[i].name()]
		total, least = total+n, min(least, n)
	}
	after, grown := heap(), a.stored()-stored
	t.Logf("%d malformed requests to %d routes, at least %d each, goal %d; in this part: %v answers by status (0: closed), live heap %d KiB, then %d KiB, of which the log and its world grew by %d KiB of commits (%s)",
		total, len(a.api.routes), least, goal, a.answers, before>>10, after>>10, grown>>10, c.file)
	if limit := before + 32<<20 + 64*grown; after > limit {
		t.Errorf("the heap grew from %d to %d bytes, limit %d", before, after, limit)
	}
}

// stored is how many bytes the log has.
func (a *attacker) stored() (n uint64) {
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	for _, b := range a.log.commits {
		n += uint64(len(b))
	}
	return n
}

// sound checks that the site goes on, and that the attack got where it should.
func (a *attacker) sound() {
	a.t.Helper()
	a.want(200, a.acme.owner, "GET", "/v1/whoami", "")
	a.t.Logf("answers by status (0: closed): %v", a.answers)
	for _, status := range []int{200, 400, 401, 404, 422} {
		if a.answers[status] == 0 {
			a.t.Errorf("no answer was %d: %v", status, a.answers)
		}
	}
}
