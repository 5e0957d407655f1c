package api

import (
	"github.com/gpuaas/gpuaas/domain"
)

// crn is a resource's full name: vendor:region:tenant:project:type:id. A part that
// does not apply is empty.
func (s *Server) crn(tenant, project, typ, id string) string {
	return s.o.Vendor + ":" + s.o.Region + ":" + tenant + ":" + project + ":" + typ + ":" + id
}

// Changed is the answer to what changes a resource that is there: where it is now,
// or on its way to.
type Changed struct {
	ID    string `json:"id" doc:"What was changed"`
	State string `json:"state" doc:"Where it is now, or on its way to" example:"stopping"`
}

// timeField reads a time of a body.
func timeField(field, s string) (domain.Time, *domain.Error) {
	var t domain.Time
	if t.UnmarshalText([]byte(s)) != nil {
		return 0, invalid(field, "time.invalid", "%s: want an RFC 3339 time", field)
	}
	return t, nil
}

// featuresField reads the names of features.
func featuresField(field string, names []string) (domain.Features, *domain.Error) {
	f, err := domain.FeaturesOf(names)
	if err != nil {
		return 0, invalid(field, "features.unknown", "%s: %v", field, err)
	}
	return f, nil
}

// idField reads an id of a body; "" is none.
func idField[T interface{ UnmarshalText([]byte) error }](field, s string, id T) *domain.Error {
	if id.UnmarshalText([]byte(s)) != nil {
		return invalid(field, "id.invalid", "%s: not an id of that kind", field)
	}
	return nil
}

// wordField reads a word of a closed list.
func wordField[T interface{ UnmarshalText([]byte) error }](field, s string, word T) *domain.Error {
	if word.UnmarshalText([]byte(s)) != nil {
		return invalid(field, "word.unknown", "%s: not one of the words it can be", field)
	}
	return nil
}
