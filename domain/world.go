package domain

// World is the state of one site: the fold of all its events.
type World struct {
	Site       string
	Term       uint64 // the writer's
	LogicLevel uint32
	Head       Head   // the commit this is the fold of
	At         Time   // that commit's time
	Number     uint64 // the last event's number
}

func (w *World) extendDeadlines(Duration) {}
