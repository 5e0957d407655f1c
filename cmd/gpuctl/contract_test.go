package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/client"
	"github.com/gpuaas/gpuaas/domain"
)

// TestTheClientKnowsWhatTheSiteSays compares the two ends of the contract: every
// field of an answer has its place in the client, and none is made up.
func TestTheClientKnowsWhatTheSiteSays(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]any{
		{api.Allocation{}, client.Allocation{}},
		{api.VM{}, client.VM{}},
		{api.APIKey{}, client.APIKey{}},
		{api.AuditEntry{}, client.AuditEntry{}},
		{api.Denial{}, client.Denial{}},
		{api.Console{}, client.Console{}},
		{api.Enrolled{}, client.Enrolled{}},
		{api.Erasure{}, client.Erasure{}},
		{api.Lease{}, client.Lease{}},
		{api.SignedReport{}, client.SignedReport{}},
		{domain.DeviceWipe{}, client.DeviceErasure{}},
		{api.Event{}, client.Event{}},
		{api.HostReason{}, client.HostReason{}},
		{api.Host{}, client.Host{}},
		{api.SlotMaps{}, client.SlotMaps{}},
		{domain.SlotMap{}, client.SlotMap{}},
		{domain.SlotSpec{}, client.SlotSpec{}},
		{domain.Device{}, client.Device{}},
		{api.ApprovedMap{}, client.ApprovedMap{}},
		{api.ApprovedSlot{}, client.ApprovedSlot{}},
		{api.Balance{}, client.Balance{}},
		{api.Credit{}, client.Credit{}},
		{api.LedgerEntry{}, client.LedgerEntry{}},
		{api.UsageLine{}, client.UsageLine{}},
		{api.Changed{}, client.Changed{}},
		{api.Operator{}, client.Operator{}},
		{api.WhoAmI{}, client.WhoAmI{}},
		{api.Policy{}, client.Policy{}},
		{api.EffectivePolicy{}, client.EffectivePolicy{}},
		{api.EffectivePolicies{}, client.EffectivePolicies{}},
		{api.PolicyMeaning{}, client.PolicyMeaning{}},
		{api.Problem{}, client.Problem{}},
		{api.ProblemField{}, client.ProblemField{}},
		{api.Project{}, client.Project{}},
		{api.SKU{}, client.SKU{}},
		{api.Price{}, client.Price{}},
		{api.Offer{}, client.Offer{}},
		{api.Image{}, client.Image{}},
		{api.ImageUpload{}, client.ImageUpload{}},
		{api.Slot{}, client.Slot{}},
		{api.Tenant{}, client.Tenant{}},
		{api.Member{}, client.Member{}},
		{api.WipeDuty{}, client.WipeDuty{}},
		{api.DeviceHistory{}, client.DeviceHistory{}},
		{api.KnownDevice{}, client.KnownDevice{}},
		{api.DevicePlace{}, client.DevicePlace{}},
		{api.DeviceLease{}, client.DeviceLease{}},
		{api.DeviceWipe{}, client.DeviceWipe{}},
	} {
		site, ours := fields(pair[0]), fields(pair[1])
		for name := range site {
			if !ours[name] {
				t.Errorf("%T has no %s", pair[1], name)
			}
		}
		for name := range ours {
			if !site[name] {
				t.Errorf("%T has %s, which the site does not say", pair[1], name)
			}
		}
	}
}

func fields(v any) map[string]bool {
	out := map[string]bool{}
	t := reflect.TypeOf(v)
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			out[name] = true
		}
	}
	return out
}

func TestMoneyIsExact(t *testing.T) {
	t.Parallel()
	for micros, want := range map[int64]string{
		0: "0.00 USD", 1: "0.000001 USD", -1: "-0.000001 USD", 2_490_000: "2.49 USD", 2_490_010: "2.49001 USD", 100_000_000: "100.00 USD",
		9007199254740993: "9007199254.740993 USD", -9223372036854775808: "-9223372036854.775808 USD", 9223372036854775807: "9223372036854.775807 USD",
	} {
		if got := money(micros, "USD"); got != want {
			t.Errorf("%d is %s, want %s", micros, got, want)
		}
	}
	for s, want := range map[string]int64{"100": 100_000_000, "2.49": 2_490_000, "0.000001": 1, "9223372036854.775807": 9223372036854775807} {
		if got, err := parseMoney(s); err != nil || got != want {
			t.Errorf("%s is %d (%v), want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "0.0000001", "9223372036854.775808", "1 000", "１"} {
		if got, err := parseMoney(s); err == nil {
			t.Errorf("%q is %d", s, got)
		}
	}
}
