package commands

import "github.com/gpuaas/gpuaas/domain"

// RefuseTicks makes the loop refuse the ticks for which f has a refusal. Before Run.
func (l *Loop) RefuseTicks(f func(*domain.Tick) *domain.Error) { l.refuseTick = f }
