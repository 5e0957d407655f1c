package projections

import (
	"errors"

	"github.com/gpuaas/gpuaas/domain"
)

// What makes a projector refuse to run. None of them passes by itself.
var (
	// ErrForeignSite: the database belongs to another site.
	ErrForeignSite = errors.New("the database holds the read models of another site")
	// ErrAhead: the read model holds commits that the log does not have (a lost tail).
	ErrAhead = errors.New("the read model is ahead of the log")
	// ErrForked: the log has another commit where the read model remembers one.
	ErrForked = errors.New("the log is not the one the read model was built from")
	// ErrSuperseded: another projector took over this database.
	ErrSuperseded = errors.New("another projector runs on this database")
	// ErrDrift: an event speaks of a row that is not there, so the tables are not
	// the fold of the log. Rebuild them.
	ErrDrift = errors.New("the read model is not the fold of its log: rebuild it")
)

// fatal reports whether trying again cannot help.
func fatal(err error) bool {
	for _, e := range []error{ErrForeignSite, ErrAhead, ErrForked, ErrSuperseded, ErrDrift} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// notFound is the answer for "not there" and "not yours", with the domain's codes.
func notFound(what string) *domain.Error {
	return domain.Errorf(domain.NotFound, what+".not_found", "no such %s", what)
}

// unavailable is the answer while the database does not answer.
func unavailable(cause error) *domain.Error {
	e := domain.Errorf(domain.Unavailable, "read_model.unavailable", "the read model does not answer now: try again")
	e.Cause = cause
	return e
}
