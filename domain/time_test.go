package domain

import (
	"math/rand/v2"
	"testing"
)

func TestTimeString(t *testing.T) {
	const form = "2006-01-02T15:04:05.000Z"
	r := rand.New(rand.NewPCG(1, 2))
	for _, at := range []Time{1, -1, 999, 1000, -62_135_596_800_000 + 1, 253_402_300_799_999, 253_402_300_800_000} {
		for range 1000 {
			if got, want := at.String(), at.Std().Format(form); got != want {
				t.Fatalf("%d is %q, want %q", at, got, want)
			}
			at = Time(r.Int64N(253_402_300_800_000))
		}
	}
	if s := Time(0).String(); s != "" {
		t.Errorf("no time is %q", s)
	}
}
