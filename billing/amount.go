package billing

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/stripe/stripe-go/v76"

	"github.com/gpuaas/gpuaas/domain"
)

// unit is a currency's chargeable unit: how many micros one minor unit has, and in
// what steps of minor units the provider charges.
// Source: Stripe's "Supported currencies": zero-decimal, and three-decimal
// currencies whose last digit must be 0.
type unit struct {
	micros domain.Micros
	step   int64
}

var units = map[stripe.Currency]unit{
	stripe.CurrencyUSD: {10_000, 1}, stripe.CurrencyEUR: {10_000, 1}, stripe.CurrencyGBP: {10_000, 1}, stripe.CurrencyCHF: {10_000, 1},
	stripe.CurrencyAED: {10_000, 1}, stripe.CurrencySAR: {10_000, 1}, stripe.CurrencyINR: {10_000, 1}, stripe.CurrencySGD: {10_000, 1},
	stripe.CurrencyCAD: {10_000, 1}, stripe.CurrencyAUD: {10_000, 1},
	stripe.CurrencyJPY: {1_000_000, 1}, stripe.CurrencyKRW: {1_000_000, 1},
	stripe.Currency("kwd"): {1_000, 10}, stripe.Currency("bhd"): {1_000, 10},
}

// Chargeable rounds an amount half away from zero to what the provider can charge.
// rounding is the difference, charged less exact, for the platform's rounding
// account.
func Chargeable(c stripe.Currency, exact domain.Micros) (minor int64, rounding domain.Micros, err error) {
	u, ok := units[c]
	if !ok {
		return 0, 0, fmt.Errorf("currency %q: not one this site charges in", c)
	}
	size := u.micros * domain.Micros(u.step)
	steps, rest := exact/size, exact%size
	switch {
	case rest*2 >= size:
		steps++
	case rest*2 <= -size:
		steps--
	}
	return int64(steps) * u.step, steps*size - exact, nil
}

// Invoice distributes a rounded total over its lines: each line gets its floor, and
// what is left goes to the largest remainders, ties by line order. A negative
// invoice charges nothing and becomes the customer's credit.
type Invoice struct {
	Total    int64         // minor units to charge
	Credit   int64         // minor units that become customer credit
	Lines    []int64       // minor units, in the order given; they sum to Total - Credit
	Rounding domain.Micros // to the rounding account
}

// Round makes an invoice of exact lines.
func Round(c stripe.Currency, exact []domain.Micros) (Invoice, error) {
	var sum domain.Micros
	for _, n := range exact {
		sum += n
	}
	net, rounding, err := Chargeable(c, sum)
	if err != nil {
		return Invoice{}, err
	}
	size, step := units[c].micros*domain.Micros(units[c].step), units[c].step
	type share struct {
		line int
		rest domain.Micros
	}
	out := Invoice{Lines: make([]int64, len(exact)), Rounding: rounding, Total: max(net, 0), Credit: max(-net, 0)}
	left, shares := net, make([]share, len(exact))
	for i, n := range exact {
		floor := n / size
		if n%size < 0 {
			floor--
		}
		out.Lines[i] = int64(floor) * step
		left -= out.Lines[i]
		shares[i] = share{i, n - floor*size}
	}
	slices.SortStableFunc(shares, func(a, b share) int { return cmp.Compare(b.rest, a.rest) })
	for i := 0; left != 0 && len(shares) > 0; i = (i + 1) % len(shares) {
		d := step
		if left < 0 {
			d = -step
		}
		out.Lines[shares[i].line] += d
		left -= d
	}
	return out, nil
}
