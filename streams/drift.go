package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Drift is one difference between a stream as it is and as it should be.
type Drift struct {
	Stream string `json:"stream"`
	Field  string `json:"field"` // the configuration's JSON-like name, "stream" if it is missing
	Want   string `json:"want"`
	Have   string `json:"have"`
}

// String is one line for an operator.
func (d Drift) String() string {
	return fmt.Sprintf("stream %s: %s is %s, want %s", d.Stream, d.Field, d.Have, d.Want)
}

// CheckConfig compares every stream of the site with what it should be. Any
// credential with the right to read stream information will do.
func CheckConfig(ctx context.Context, nc *nats.Conn, c Config) ([]Drift, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	var out []Drift
	for _, want := range c.wanted() {
		s, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			out = append(out, Drift{Stream: want.Name, Field: "stream", Want: "to exist", Have: "missing"})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read configuration of %s: %w", want.Name, err)
		}
		out = append(out, compare(want, s.CachedInfo().Config)...)
	}
	return out, nil
}

// compare lists the differences field by field. It goes over all fields of the
// client's configuration type, so that one it gains later is compared too.
func compare(want, have jetstream.StreamConfig) []Drift {
	have.Metadata = withoutServerKeys(have.Metadata)
	slices.Sort(want.Subjects)
	slices.Sort(have.Subjects)
	want.Description, have.Description = "", "" // words, which a later build may improve
	if want.FirstSeq == 0 {                     // a rebuilt feed keeps where it began
		have.FirstSeq = 0
	}
	var out []Drift
	w, h := reflect.ValueOf(want), reflect.ValueOf(have)
	for i := range w.NumField() {
		if a, b := w.Field(i).Interface(), h.Field(i).Interface(); !reflect.DeepEqual(a, b) {
			out = append(out, Drift{Stream: want.Name, Field: w.Type().Field(i).Name, Want: show(a), Have: show(b)})
		}
	}
	return out
}

func show(v any) string {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && !r.IsNil() {
		v = r.Elem().Interface()
	}
	return strings.TrimSpace(fmt.Sprintf("%+v", v))
}

// withoutServerKeys drops what the server itself writes ("_nats.ver" and others).
func withoutServerKeys(m map[string]string) map[string]string {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(k, _ string) bool { return strings.HasPrefix(k, "_nats.") })
	if len(m) == 0 {
		return nil
	}
	return m
}

// Watch compares again every period until ctx ends, and calls onDrift with the
// drifts whenever they changed (with none, when they are gone) and with the error
// of a comparison that could not be made. onDrift decides what stops: a drift of
// the log stops writing.
func Watch(ctx context.Context, nc *nats.Conn, c Config, every time.Duration, onDrift func([]Drift, error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last []Drift
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		drifts, err := CheckConfig(attempt, nc, c)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			onDrift(nil, err)
		} else if !slices.Equal(drifts, last) {
			last = drifts
			onDrift(drifts, nil)
		}
	}
}
