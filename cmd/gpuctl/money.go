package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Money is whole micros (10^-6 of the currency's unit) from end to end: read and
// written as decimals, never through a float.

const microDigits = 6

// money writes an amount with its currency: 2.49 USD, -0.000001 USD, 100.00 USD.
func money(micros int64, currency string) string {
	sign, u := "", uint64(micros)
	if micros < 0 {
		sign, u = "-", -u // right for the smallest integer too
	}
	fraction := fmt.Sprintf("%06d", u%1_000_000)
	for len(fraction) > 2 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return strings.TrimSpace(sign + strconv.FormatUint(u/1_000_000, 10) + "." + fraction + " " + currency)
}

// parseMoney reads a decimal of at most six digits behind the point.
func parseMoney(s string) (int64, error) {
	whole, fraction, point := strings.Cut(s, ".")
	if len(fraction) > microDigits || point && fraction == "" || whole == "" {
		return 0, usage("%q: want an amount like 100 or 2.49, with at most %d digits behind the point", clean(s), microDigits)
	}
	digits := whole + fraction + strings.Repeat("0", microDigits-len(fraction))
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, usage("%q: want an amount like 100 or 2.49", clean(s))
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64 {
		return 0, usage("%q: too much", clean(s))
	}
	return int64(n), nil
}
