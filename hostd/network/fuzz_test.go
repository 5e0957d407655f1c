package network

import "testing"

// FuzzLeases: dnsmasq's file, read while it is written or by whomever.
func FuzzLeases(f *testing.F) {
	f.Add([]byte("1700000000 02:00:00:00:00:01 10.77.0.2 vm *\n"))
	f.Add([]byte("9223372036854775807 a b c d\n-9223372036854775808 a b c d\n"))
	f.Add([]byte("duid 00:01\n\x00 \xff\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for mac, l := range parseLeases(b) {
			if mac == "" || l.Address == "" {
				t.Fatalf("%q: %+v", mac, l)
			}
		}
	})
}
