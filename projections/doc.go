// Package projections keeps the read models: tables in Postgres that follow from
// the log of commits, and the queries that read them. It is the only package with
// SQL in it.
//
// A [Store] is one database. Its [Projector] folds commits into rows, in batches:
// rows and checkpoint (commit number, commit hash) change in one transaction, so
// that the tables are always the fold of exactly the commits the checkpoint names.
// Its [Reader] answers queries, each from one snapshot which also says what
// commit it reflects, authorized by membership rows of that same snapshot, with
// row-level security behind it. [Store.Rebuild] builds a new generation of the
// tables beside the one being read and swaps them.
//
// What it may not do: decide anything, keep anything that does not follow from
// events, or be needed for a decision: the database may be lost at any time and
// is built again from the log.
//
// Where to start reading: events.go (what each event does), projector.go (how
// events become transactions), reader.go (how a query runs). A concept's file
// (slot.go, allocation.go, ...) has its row, its events, its query.
package projections
