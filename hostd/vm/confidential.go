package vm

import (
	"errors"
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// Confidential is how a guest's memory is kept from the host itself. None of this
// was ever started: it needs processors that this project has not run on, libvirt
// 10.5 for SEV-SNP and 11.6 for TDX, and firmware built for it.
type Confidential string

// The kinds of confidential VMs.
const (
	NotConfidential Confidential = ""
	SEVSNP          Confidential = "sev-snp"
	TDX             Confidential = "tdx"
)

// launchSecurity is libvirt's element of that name for the kinds libvirtxml 9 does
// not know (https://libvirt.org/formatdomain.html#launch-security).
type launchSecurity struct {
	Type            string `xml:"type,attr"`
	CBitPos         *uint  `xml:"cbitpos"`
	ReducedPhysBits *uint  `xml:"reducedPhysBits"`
	Policy          string `xml:"policy"`
}

func (c Confidential) validate(kvm bool) error {
	switch c {
	case NotConfidential:
		return nil
	case SEVSNP, TDX:
		if !kvm {
			return errors.New("a confidential VM needs KVM")
		}
		return nil
	}
	return fmt.Errorf("%q is no kind of confidential VM", string(c))
}

// launch makes the domain confidential. Its firmware is measured at the start and
// has no variable store that the host could write.
func (c Confidential) launch(doc *document) {
	switch c {
	case SEVSNP:
		// The encryption bit's place is that of all EPYC since Milan; the policy allows
		// SMT and sets the bit that must be one (SEV-SNP ABI, table 9).
		doc.LaunchSecurity = &launchSecurity{Type: string(c), CBitPos: index(51), ReducedPhysBits: index(1), Policy: "0x30000"}
	case TDX:
		// Bit 28: the guest may not be debugged by disabling exceptions on EPT violations.
		doc.LaunchSecurity = &launchSecurity{Type: string(c), Policy: "0x10000000"}
	default:
		return
	}
	if o := doc.OS; o.Loader != nil {
		o.Loader = &libvirtxml.DomainLoader{Path: o.Loader.Path, Type: "rom", Stateless: "yes"}
		o.NVRam = nil
	}
	doc.MemoryBacking.MemoryAccess = &libvirtxml.DomainMemoryAccess{Mode: "shared"}
}
