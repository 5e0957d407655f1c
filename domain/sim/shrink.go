package sim

// Shrink looks for a smaller schedule that fails: fewer steps, fewer kinds of faults.
// It runs a bounded number of schedules and returns the smallest failure it has seen.
func Shrink(f *Failure) *Failure {
	best := f
	fails := func(c Config) bool {
		if r := Run(c); r.Failure != nil {
			best = r.Failure
			return true
		}
		return false
	}
	for range 2 {
		c := best.Config
		if best.Step < c.Steps { // nothing after it matters
			c.Steps = best.Step
			fails(c)
		}
		for low, high := 0, best.Config.Steps; high-low > 1; {
			c := best.Config
			c.Steps = (low + high) / 2
			if fails(c) {
				high = c.Steps
			} else {
				low = c.Steps
			}
		}
		for kind := range faultCount {
			if c := best.Config; !c.Off.has(kind) {
				c.Off |= 1 << kind
				fails(c)
			}
		}
	}
	return best
}
