// Package billing is the edge between the ledger and the payment provider. The
// provider moves money and computes none: every amount it is told is an integer of
// the currency's chargeable unit, rounded here and nowhere else.
//
// What is here is that rounding. Invoices, top-ups and the provider's webhooks are
// not part of this build yet.
package billing
