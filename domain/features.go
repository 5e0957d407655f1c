package domain

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Features is a set of what a VM's virtual hardware has beyond the plain, or of what
// a host can give its VMs.
type Features uint8

// The features.
const (
	SecureBoot Features = 1 << iota // UEFI Secure Boot, with the keys that distributions' boot loaders are signed by
	VTPM                            // a TPM 2.0 of the VM's own
	SEVSNP                          // memory that the host cannot read: AMD SEV-SNP
	TDX                             // the same by Intel TDX
)

var featureNames = [...]string{"secure_boot", "vtpm", "sev-snp", "tdx"}

// confidential features exclude each other: no processor has both.
const confidential = SEVSNP | TDX

// Names lists the features in a fixed order; empty, not nil, for none.
func (f Features) Names() []string {
	out := []string{}
	for i, name := range featureNames {
		if f&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// FeaturesOf is the set of the names. An unknown one is an error that lists those
// there are.
func FeaturesOf(names []string) (f Features, err error) {
	for _, name := range names {
		i := slices.Index(featureNames[:], name)
		if i < 0 {
			return 0, fmt.Errorf("%q is no feature: want some of %v", clip(name, 32), featureNames)
		}
		f |= 1 << i
	}
	return f, nil
}

// Has reports whether all of want are in f.
func (f Features) Has(want Features) bool { return f&want == want }

// MarshalJSON implements json.Marshaler: a list of names.
func (f Features) MarshalJSON() ([]byte, error) { return json.Marshal(f.Names()) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *Features) UnmarshalJSON(b []byte) error {
	var names []string
	err := json.Unmarshal(b, &names)
	if err == nil {
		*f, err = FeaturesOf(names)
	}
	return err
}

// checkFeatures refuses sets that no host can have.
func checkFeatures(field string, f Features) *Error {
	if f >= 1<<len(featureNames) {
		return invalidField(field, "features.unknown", "%s: want some of %v", field, featureNames)
	}
	if f.Has(confidential) {
		return invalidField(field, "features.exclusive", "%s: sev-snp and tdx exclude each other", field)
	}
	return nil
}
