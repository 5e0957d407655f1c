package projections

import (
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/gpuaas/gpuaas/domain"
)

// registerTypes teaches a connection to read timestamptz into domain.Time, NULL as
// zero.
func registerTypes(m *pgtype.Map) {
	m.TryWrapScanPlanFuncs = append([]pgtype.TryWrapScanPlanFunc{wrapTime}, m.TryWrapScanPlanFuncs...)
}

func wrapTime(target any) (pgtype.WrappedScanPlanNextSetter, any, bool) {
	if t, ok := target.(*domain.Time); ok {
		return &timePlan{}, (*timeScanner)(t), true
	}
	return nil, nil, false
}

type timePlan struct{ next pgtype.ScanPlan }

func (p *timePlan) SetNext(next pgtype.ScanPlan) { p.next = next }

func (p *timePlan) Scan(src []byte, dst any) error {
	return p.next.Scan(src, (*timeScanner)(dst.(*domain.Time)))
}

type timeScanner domain.Time

// ScanTimestamptz implements pgtype.TimestamptzScanner.
func (t *timeScanner) ScanTimestamptz(v pgtype.Timestamptz) error {
	*t = 0
	if v.Valid {
		*t = timeScanner(domain.TimeOf(v.Time))
	}
	return nil
}

// timestamp is a parameter; zero becomes NULL.
func timestamp(t domain.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t.Std(), Valid: t != 0}
}
