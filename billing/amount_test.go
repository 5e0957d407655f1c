package billing

import (
	"slices"
	"testing"

	"github.com/stripe/stripe-go/v76"
	"pgregory.net/rapid"

	"github.com/gpuaas/gpuaas/domain"
)

// Yen have no minor unit, dinars three digits of which the last must be 0: dividing
// by 100 or rounding twice charges something else.
func TestChargeable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		currency stripe.Currency
		exact    domain.Micros
		minor    int64
		rounding domain.Micros
	}{
		{stripe.CurrencyJPY, 11_055_555, 11, -55_555},
		{stripe.Currency("kwd"), 1_144_500, 1140, -4_500},
		{stripe.CurrencyUSD, 2_300_138, 230, -138},
		{stripe.CurrencyUSD, 5_000, 1, 5_000},
		{stripe.CurrencyUSD, -5_000, -1, -5_000},
		{stripe.CurrencyUSD, 4_999, 0, -4_999},
		{stripe.CurrencyUSD, 0, 0, 0},
	} {
		minor, rounding, err := Chargeable(c.currency, c.exact)
		if err != nil || minor != c.minor || rounding != c.rounding {
			t.Errorf("%s %d: %d, rounding %d, %v; want %d, %d", c.currency, c.exact, minor, rounding, err, c.minor, c.rounding)
		}
	}
	if _, _, err := Chargeable("xyz", 1); err == nil {
		t.Error("an unknown currency was charged")
	}
}

func TestInvoiceLines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		exact []domain.Micros
		want  Invoice
	}{
		"thirds":   {[]domain.Micros{333_333, 333_333, 333_333}, Invoice{Total: 100, Lines: []int64{34, 33, 33}, Rounding: 1}},
		"halves":   {[]domain.Micros{5_000, 5_000, 5_000}, Invoice{Total: 2, Lines: []int64{1, 1, 0}, Rounding: 5_000}},
		"negative": {[]domain.Micros{1_004_999, -1_600_000}, Invoice{Credit: 60, Lines: []int64{100, -160}, Rounding: -4_999}},
		"empty":    {nil, Invoice{Lines: []int64{}}},
	} {
		got, err := Round(stripe.CurrencyUSD, c.exact)
		if err != nil || got.Total != c.want.Total || got.Credit != c.want.Credit || got.Rounding != c.want.Rounding || !slices.Equal(got.Lines, c.want.Lines) {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		currency := rapid.SampledFrom([]stripe.Currency{stripe.CurrencyUSD, stripe.CurrencyJPY, stripe.Currency("kwd")}).Draw(t, "currency")
		var exact []domain.Micros
		var sum domain.Micros
		for _, n := range rapid.SliceOfN(rapid.Int64Range(-1e12, 1e12), 1, 50).Draw(t, "lines") {
			exact = append(exact, domain.Micros(n))
			sum += domain.Micros(n)
		}
		inv, err := Round(currency, exact)
		if err != nil {
			t.Fatal(err)
		}
		var lines int64
		for i, n := range inv.Lines {
			lines += n
			if d := domain.Micros(n)*units[currency].micros - exact[i]; d >= 2*units[currency].micros*domain.Micros(units[currency].step) || -d >= 2*units[currency].micros*domain.Micros(units[currency].step) {
				t.Fatalf("line %d is off by %d micros", i, d)
			}
		}
		if lines != inv.Total-inv.Credit || domain.Micros(lines)*units[currency].micros-inv.Rounding != sum {
			t.Fatalf("%+v does not add up to %d", inv, sum)
		}
	})
}
