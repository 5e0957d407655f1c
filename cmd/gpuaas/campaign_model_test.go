package main_test

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// lot is what the commands of a history say of one slot. Between release and the
// next launch lies a wipe that no client sees end: a free slot is one that is wiped,
// or being wiped.
type lot struct {
	holder      string // the allocation that has it
	quarantined bool
	leaving     bool // released, and perhaps not wiped yet
	condemned   bool // in use, or in the wipe after it: quarantined when that is over
}

// slotCommand is one command as one slot sees it.
type slotCommand struct {
	slot string
	verb verb
	on   string
}

// slotAnswer is what was answered.
type slotAnswer struct {
	accepted bool
	state    string
}

// next are the states a slot may be in after a command that was answered so; none: it
// cannot have been answered so.
func (l lot) next(in slotCommand, out slotAnswer) (after []any) {
	if l.condemned && l.holder == "" { // its wipe may be over
		after = lot{quarantined: true}.next(in, out)
	}
	free := l.holder == ""
	switch {
	case in.verb == launch && free && !l.quarantined && !l.condemned:
		l = lot{holder: in.on}
	case in.verb == release && l.holder == in.on:
		l.holder, l.leaving = "", true
	case in.verb == quarantine && out.state == "condemned" && (!free || l.leaving && !l.quarantined):
		l.condemned = true
	case in.verb == quarantine && out.state == "quarantined" && free:
		l = lot{quarantined: true}
	case in.verb == rewipe && out.accepted && free:
		l.quarantined, l.leaving = false, l.leaving && !l.quarantined
	case in.verb == rewipe && !out.accepted && !l.quarantined && !(free && l.condemned):
	default:
		return after
	}
	return append(after, l)
}

// slotModel is checked slot by slot.
var slotModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{lot{}} },
	Step: func(state, in, out any) []any { return state.(lot).next(in.(slotCommand), out.(slotAnswer)) },
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[string]int{}
		for _, o := range history {
			slot := o.Input.(slotCommand).slot
			i, ok := at[slot]
			if !ok {
				i = len(parts)
				at[slot], parts = i, append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	},
}

// slotHistory is what porcupine judges: launches, releases, quarantines and rewipes.
func slotHistory(history []*operation) (out []porcupine.Operation) {
	for _, o := range history {
		if o.verb == stopVM || o.verb == startVM || o.verb == credit || o.verb == launch && !o.accepted() {
			continue
		}
		for _, s := range o.slots {
			out = append(out, porcupine.Operation{
				ClientId: o.client, Input: slotCommand{s, o.verb, o.on}, Output: slotAnswer{o.accepted(), o.state}, Call: int64(o.call), Return: int64(o.ret),
			})
		}
	}
	return out
}

// linearizable has porcupine look for an order in which all answers make sense.
func linearizable(history []*operation, within time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(slotModel.ToModel(), slotHistory(history), within)
}
