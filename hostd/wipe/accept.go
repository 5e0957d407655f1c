package wipe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// A device that is not what its baseline says, or of which the host has none, waits
// for an operator. Its refused wipe leaves what it found ([Refused]); the operator
// looks at that and accepts exactly it ([Store.Accept]); the next wipe makes it the
// baseline if the device still is that, and says so in its evidence. Nothing of it
// touches the device, so it can be done while hostd runs.

// Refused is what a wipe found and would not take for what was approved.
type Refused struct {
	Serial    string    `json:"serial"`
	Component string    `json:"component"`
	Reason    string    `json:"reason"` // a code: BaselineMissing, FirmwareChanged, ...
	Detail    string    `json:"detail"`
	At        time.Time `json:"at"`
	Drive     *Survey   `json:"drive,omitempty"`
	Function  *VFState  `json:"function,omitempty"`
}

// Brief is what was found, in a few words.
func (r *Refused) Brief() string {
	switch {
	case r.Drive != nil:
		return r.Drive.brief()
	case r.Function != nil:
		return r.Function.brief()
	}
	return "nothing"
}

// acceptance is an operator's word on it.
type acceptance struct {
	Refused
	Why        string        `json:"why"`
	AcceptedAt time.Time     `json:"accepted_at"`
	Was        string        `json:"was"`          // what the baseline said before, in a few words
	WasDigest  domain.Digest `json:"was_baseline"` // zero: there was none
	Told       domain.Digest `json:"told"`         // the wipe whose verified evidence said it; zero: none yet
}

// Known is what the store has of one device.
type Known struct {
	Serial   string
	Baseline string // in a few words; "": none
	Refused  *Refused
	Accepted string // why; "": nothing is accepted and not yet taken over
	Cycle    string // a power cycle is "needed", or "confirmed"
}

// ErrNothingRefused is an acceptance of a device that no wipe has refused.
var ErrNothingRefused = errors.New("no wipe has refused what it is: wipe its slot, then look again")

// refused keeps what a wipe found, for an operator.
func (s *Store) refused(r *Refused, cause error) error {
	f := explain(cause)
	r.Reason, r.Detail, r.At = f.code, clip(f.detail, detailMax), time.Now()
	_, err := s.save(kindRefused, r.Serial, r)
	return err
}

var acceptWord = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func errNoWord(s string) error {
	return fmt.Errorf("a reason is a word of at most 64 small letters, digits, dots and dashes, not %q", s)
}

// Accept takes what the last wipe of the device refused for what it should be. why is
// a word (a ticket's number, "firmware-update"): it goes into evidence, which people's
// names do not. A drive that could not be erased is not accepted.
func (s *Store) Accept(serial, why string) (*Refused, error) {
	if !acceptWord.MatchString(why) {
		return nil, errNoWord(why)
	}
	r := new(Refused)
	_, found, err := s.load(kindRefused, serial, r)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, ErrNothingRefused
	case r.Serial != serial || r.Drive == nil && r.Function == nil:
		return nil, fmt.Errorf("what was found of %q is damaged", serial)
	}
	a := &acceptance{Refused: *r, Why: why, AcceptedAt: time.Now(), Was: "none"}
	if r.Drive != nil {
		if err := r.Drive.fit(); err != nil {
			return nil, err
		}
		if base, d, err := s.baseline(serial); err == nil && base != nil { // one that is damaged says nothing
			a.Was, a.WasDigest = base.brief(), d
		}
	} else {
		base := new(functionBaseline)
		if d, found, err := s.load(kindFunction, serial, base); err == nil && found {
			a.Was, a.WasDigest = base.State.brief(), d
		}
	}
	_, err = s.save(kindAccepted, serial, a)
	return r, err
}

// accepted is what an operator accepted of the device, nil if nothing, or if the
// evidence of another wipe has said it.
func (s *Store) accepted(serial string, w *domain.PlacedWipe) (*acceptance, error) {
	a := new(acceptance)
	_, found, err := s.load(kindAccepted, serial, a)
	switch {
	case err != nil:
		return nil, refuse(RecordDamaged, "%v", err)
	case !found || a.Serial != serial || !a.Told.IsZero() && a.Told != leaseDigest(w):
		return nil, nil
	}
	return a, nil
}

// lines are what the evidence says of it.
func (a *acceptance) lines(now string) [2]string {
	was := "the baseline before: " + a.Was
	if !a.WasDigest.IsZero() {
		was = fmt.Sprintf("the baseline before, %s: %s", a.WasDigest, a.Was)
	}
	return [2]string{fmt.Sprintf("accepted by an operator (%s, %s): %s", a.Why, a.AcceptedAt.UTC().Format(time.RFC3339), now), was}
}

// settled forgets what was refused, once a wipe is verified. What was accepted stays
// for as long as this wipe may have to be done again, because its evidence was lost.
func (s *Store) settled(serial string, w *domain.PlacedWipe) error {
	err := s.remove(kindRefused, serial)
	a, aerr := s.accepted(serial, w)
	if aerr == nil && a != nil && a.Told.IsZero() {
		a.Told = leaseDigest(w)
		_, aerr = s.save(kindAccepted, serial, a)
	}
	return errors.Join(err, aerr)
}

// Devices lists all that the store knows, by serial.
func (s *Store) Devices(ctx context.Context) ([]Known, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	known := map[string]*Known{}
	of := func(serial string) *Known {
		if known[serial] == nil {
			known[serial] = &Known{Serial: serial}
		}
		return known[serial]
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		kind := filepath.Ext(strings.TrimSuffix(e.Name(), ".json"))
		err = nil
		read := func(v any) bool {
			_, err = s.read(filepath.Join(s.dir, e.Name()), v)
			return err == nil
		}
		switch kind {
		case "." + kindBaseline:
			if b := new(Survey); read(b) {
				of(b.Serial).Baseline = b.brief()
			}
		case "." + kindFunction:
			if b := new(functionBaseline); read(b) {
				of(b.Serial).Baseline = b.State.brief()
			}
		case "." + kindRefused:
			if r := new(Refused); read(r) {
				of(r.Serial).Refused = r
			}
		case "." + kindCycle:
			if c := new(cycle); read(c) {
				of(c.Serial).Cycle = "needed"
				if c.Why != "" {
					of(c.Serial).Cycle = "confirmed"
				}
			}
		case "." + kindAccepted:
			if a := new(acceptance); read(a) && a.Told.IsZero() {
				of(a.Serial).Accepted = a.Why
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a wipe that ends meanwhile removes some
			return nil, err
		}
	}
	out := make([]Known, 0, len(known))
	for _, k := range known {
		out = append(out, *k)
	}
	slices.SortFunc(out, func(a, b Known) int { return strings.Compare(a.Serial, b.Serial) })
	return out, nil
}

// brief is a drive in a few words.
func (s *Survey) brief() string {
	var spaces []string
	for i := range s.Namespaces {
		spaces = append(spaces, fmt.Sprintf("%d of %d bytes", s.Namespaces[i].ID, s.Namespaces[i].Bytes()))
	}
	return fmt.Sprintf("%s, firmware %q in slot %d, namespaces %s", s.Model, s.Firmware, s.Active, strings.Join(spaces, ", "))
}

func (s VFState) brief() string { return strings.TrimSpace(fmt.Sprintf("%+v", s)) }
