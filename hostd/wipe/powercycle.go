package wipe

import (
	"errors"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// A device that no reset clears is cleared by taking its power away. The host cannot
// do that and cannot see that it was done: a warm reboot has another boot id too, and
// keeps what is in a GPU's memory. So it is an operator's word, on the host, and it
// counts only for the wipe that asked for it, in another boot of the host than the one
// in which the resets failed, and after they were tried again.

// cycle is a device that waits for it.
type cycle struct {
	Serial    string        `json:"serial"`
	Lease     domain.Digest `json:"lease"`
	Boot      string        `json:"boot_id"` // in which no reset worked
	At        time.Time     `json:"at"`
	Why       string        `json:"why,omitempty"` // the operator's word; "": nobody said so yet
	Confirmed time.Time     `json:"confirmed_at,omitzero"`
}

// ErrNoCycleNeeded is the confirmation of a power cycle that no wipe asked for.
var ErrNoCycleNeeded = errors.New("no wipe has asked for a power cycle of it")

// ErrSameBoot is the confirmation of a power cycle while the host runs on.
var ErrSameBoot = errors.New("the host has not been started anew since no reset of it worked")

// needCycle records that no reset of the device worked. A record of this lease stays as
// it is, with the boot in which that was first so: no tenant had the device since.
func (s *Store) needCycle(serial, boot string, w *domain.PlacedWipe) error {
	c, lease := new(cycle), w.Lease.Digest()
	if _, found, err := s.load(kindCycle, serial, c); err == nil && found && c.Serial == serial && c.Lease == lease && c.Boot != "" {
		return nil
	}
	_, err := s.save(kindCycle, serial, &cycle{Serial: serial, Lease: lease, Boot: boot, At: time.Now()})
	return err
}

// ConfirmPowerCycle takes an operator's word that the host was without power since the
// device's wipe asked for it; boot is the id of the host's present boot. why is a word,
// as for [Store.Accept].
func (s *Store) ConfirmPowerCycle(serial, boot, why string) error {
	if !acceptWord.MatchString(why) {
		return errNoWord(why)
	}
	c := new(cycle)
	_, found, err := s.load(kindCycle, serial, c)
	switch {
	case err != nil:
		return err
	case !found || c.Serial != serial:
		return ErrNoCycleNeeded
	case boot == "" || c.Boot == "" || boot == c.Boot:
		return ErrSameBoot
	}
	c.Why, c.Confirmed = why, time.Now()
	_, err = s.save(kindCycle, serial, c)
	return err
}

// cycled is the line of evidence if a power cycle counts as the device's reset, "" if
// it does not.
func (s *Store) cycled(serial, boot string, w *domain.PlacedWipe) (string, error) {
	c := new(cycle)
	_, found, err := s.load(kindCycle, serial, c)
	if err != nil {
		return "", refuse(RecordDamaged, "%v", err)
	}
	if !found || c.Serial != serial || c.Lease != w.Lease.Digest() || c.Why == "" || boot == "" || c.Boot == "" || boot == c.Boot {
		return "", nil
	}
	return fmt.Sprintf("power cycle: by an operator's word (%s, %s); no reset worked in boot %s, this is boot %s", c.Why, c.Confirmed.UTC().Format(time.RFC3339), c.Boot, boot), nil
}
