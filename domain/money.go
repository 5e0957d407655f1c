package domain

import (
	"fmt"
	"math"
	"math/bits"
)

// Micros is an amount of money: 10^-6 of the currency's major unit, in every
// currency. Arithmetic on it is checked; a sum that does not fit is a bug that
// must not pass silently.
type Micros int64

// Currency is an ISO 4217 code: "USD".
type Currency string

// currencyExponents lists the currencies the site can bill in, with the number
// of digits after the point in their chargeable unit (ISO 4217). Exponents matter
// only on invoices and at the payment provider, never in accrual.
var currencyExponents = map[Currency]uint8{
	"USD": 2, "EUR": 2, "GBP": 2, "CHF": 2, "AED": 2, "SAR": 2, "INR": 2, "SGD": 2, "CAD": 2, "AUD": 2,
	"JPY": 0, "KRW": 0, "KWD": 3, "BHD": 3,
}

func checkCurrency(field string, c Currency) *Error {
	if _, ok := currencyExponents[c]; !ok {
		return invalidField(field, "currency.unknown", "%q is not a currency this site bills in (ISO 4217, upper case: USD)", clip(string(c), 8))
	}
	return nil
}

// MaxMicros bounds any single amount a request may name: 10^12 major units.
const MaxMicros Micros = 1_000_000_000_000_000_000

// add is checked addition.
func (a Micros) add(b Micros) Micros {
	s := a + b
	if (s > a) != (b > 0) && b != 0 {
		panic(fmt.Sprintf("money overflow: %d + %d", a, b))
	}
	return s
}

// accrued is floor(rate * quantity * elapsed / 1 hour): what one line has cost
// after elapsed. The product is taken in 128 bits. Negative arguments give 0.
func accrued(rate Micros, quantity uint32, elapsed Duration) Micros {
	if rate <= 0 || quantity == 0 || elapsed <= 0 {
		return 0
	}
	hi, perMs := bits.Mul64(uint64(rate), uint64(quantity))
	if hi != 0 {
		panic(fmt.Sprintf("money overflow: %d * %d", rate, quantity))
	}
	hi, lo := bits.Mul64(perMs, uint64(elapsed))
	if hi >= uint64(Hour) {
		panic(fmt.Sprintf("money overflow: %d * %d ms", perMs, elapsed))
	}
	q, _ := bits.Div64(hi, lo, uint64(Hour))
	if q > math.MaxInt64 {
		panic(fmt.Sprintf("money overflow: %d * %d ms", perMs, elapsed))
	}
	return Micros(q)
}

// lasts is how long amount pays for rate micros per hour, rounded up to the
// first millisecond at which it is used up.
func lasts(amount, ratePerHour Micros) Duration {
	if ratePerHour <= 0 || amount <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(amount), uint64(Hour))
	if hi >= uint64(ratePerHour) {
		return math.MaxInt64 / 4
	}
	q, r := bits.Div64(hi, lo, uint64(ratePerHour))
	if r > 0 {
		q++
	}
	return Duration(min(q, math.MaxInt64/4))
}
