package projections

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// Fold is what the log says at one commit, as the world has it. All walks must speak
// of the same commit.
type Fold interface {
	// Slots walks all slots.
	Slots(yield func(id domain.SlotID, state domain.SlotState, generation uint32))
	// Devices walks all slots with the keys (domain.DeviceKey) of the GPU, drive and VF
	// in them; 0: none.
	Devices(yield func(id domain.SlotID, devices [3]uint64))
	// Allocations walks those that are not released yet.
	Allocations(yield func(id domain.AllocationID, state domain.AllocationState))
	// Balances walks every account that is not zero: a tenant's lots, its receivable
	// and customer_credit, the sum of its holds (any account of the kind hold), and
	// the platform's accounts under the zero tenant.
	Balances(yield func(tenant domain.TenantID, account domain.Account, currency domain.Currency, amount domain.Micros))
}

// Finding is one difference.
type Finding struct {
	Class     string `json:"class"` // "read_model_drift" or "unbalanced"
	Table     string `json:"table"`
	Key       string `json:"key"`
	ReadModel string `json:"read_model"` // "" is: no such row
	Fold      string `json:"fold"`
}

// Report is the outcome of a reconciliation.
type Report struct {
	Head      domain.Head              `json:"head"`    // the commit both sides speak of
	Rows      map[string]int           `json:"rows"`    // compared, by table
	Digests   map[string]domain.Digest `json:"digests"` // of the read model's side, by table
	Findings  []Finding                `json:"findings"`
	Truncated bool                     `json:"truncated"` // there are more findings
}

// maxFindings bounds a report: a table that is wrong throughout needs a rebuild,
// not a list.
const maxFindings = 1000

// Reconcile compares the read models with the fold at the commit that they show, and
// the ledger with itself. The tables are looked at as they stood when it began, so
// that folding may take its time while the projector goes on: foldAt is asked for
// that commit, and has to refuse one that the log does not hold.
func (s *Store) Reconcile(ctx context.Context, foldAt func(at domain.Head) (Fold, error)) (*Report, error) {
	pooled, err := s.reads.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer pooled.Release()
	conn := pooled.Conn()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, `SELECT set_config('search_path', (SELECT schema_name FROM gpuaas.current), true)`); err != nil {
		return nil, err
	}
	at, err := readCheckpoint(ctx, conn)
	if err != nil {
		return nil, err
	}
	fold, err := foldAt(at.Head)
	if err != nil {
		return nil, err
	}
	r := &Report{Head: at.Head, Rows: map[string]int{}, Digests: map[string]domain.Digest{}, Findings: []Finding{}}
	slots, allocations, balances := map[string]string{}, map[string]string{}, map[string]string{}
	fold.Slots(func(id domain.SlotID, state domain.SlotState, generation uint32) {
		slots[id.String()] = fmt.Sprintf("%s %d", state, generation)
	})
	fold.Allocations(func(id domain.AllocationID, state domain.AllocationState) { allocations[id.String()] = state.String() })
	for key, amount := range sums(fold) {
		if amount != 0 {
			balances[fmt.Sprintf("%s %s %s", key.tenant, key.name(), key.currency)] = fmt.Sprint(int64(amount))
		}
	}
	for _, c := range []struct {
		table, sql string
		fold       map[string]string
	}{
		{"slots", `SELECT id, state || ' ' || generation FROM slots`, slots},
		{"allocations", `SELECT id, state FROM allocations WHERE released_at IS NULL`, allocations},
		{"balances", `SELECT tenant_id || ' ' || account || ' ' || currency, amount_micros::text FROM balances WHERE amount_micros <> 0`, balances},
	} {
		rows, err := pairs(ctx, tx, c.sql)
		if err != nil {
			return nil, err
		}
		r.compare("read_model_drift", c.table, rows, c.fold)
	}
	places, err := devicePlaces(ctx, tx)
	if err != nil {
		return nil, err
	}
	devices := map[string]string{}
	fold.Devices(func(id domain.SlotID, keys [3]uint64) {
		if keys != [3]uint64{} {
			devices[id.String()] = deviceWords(keys)
		}
	})
	r.compare("read_model_drift", "device_places", places, devices)
	return r, r.ledger(ctx, tx)
}

// devicePlaces are the devices that are in a slot, by slot.
func devicePlaces(ctx context.Context, tx pgx.Tx) (map[string]string, error) {
	rows, err := tx.Query(ctx, `SELECT slot_id, component, serial FROM device_places WHERE until IS NULL`)
	if err != nil {
		return nil, err
	}
	keys := map[string][3]uint64{}
	var slot, component, serial string
	if _, err := pgx.ForEachRow(rows, []any{&slot, &component, &serial}, func() error {
		if k := slices.Index(deviceComponents[:], component); k >= 0 {
			of := keys[slot]
			of[k] = domain.DeviceKey(component, serial)
			keys[slot] = of
		}
		return nil
	}); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(keys))
	for slot, of := range keys {
		out[slot] = deviceWords(of)
	}
	return out, nil
}

// deviceWords names a slot's devices as the world does, which has no serials.
func deviceWords(keys [3]uint64) string {
	return fmt.Sprintf("gpu %016x, nvme %016x, ib_vf %016x", keys[0], keys[1], keys[2])
}

func sums(fold Fold) map[balanceKey]domain.Micros {
	out := map[balanceKey]domain.Micros{}
	fold.Balances(func(tenant domain.TenantID, account domain.Account, currency domain.Currency, amount domain.Micros) {
		if account.Kind == domain.AccountHold {
			account.Ref = [16]byte{}
		}
		out[balanceKey{tenant, account, currency}] += amount
	})
	return out
}

// ledger checks that every currency sums to zero and that the balances are the
// sums of the entries.
func (r *Report) ledger(ctx context.Context, tx pgx.Tx) error {
	currencies, err := pairs(ctx, tx, `SELECT currency, sum(amount_micros)::text FROM ledger_entries GROUP BY 1`)
	if err != nil {
		return err
	}
	zero := map[string]string{}
	for c := range currencies {
		zero[c] = "0"
	}
	r.compare("unbalanced", "ledger_entries", currencies, zero)
	balances, err := pairs(ctx, tx, `SELECT tenant_id || ' ' || account || ' ' || currency, amount_micros::text FROM balances WHERE amount_micros <> 0`)
	if err != nil {
		return err
	}
	entries, err := pairs(ctx, tx, `SELECT tenant || ' ' || account || ' ' || currency, sum(amount_micros)::text FROM (
		SELECT CASE WHEN split_part(account, ':', 1) IN ('lot', 'hold', 'unbilled', 'receivable', 'customer_credit') THEN tenant_id ELSE '' END AS tenant,
			CASE WHEN account LIKE 'hold:%' THEN 'hold' ELSE account END AS account, currency, amount_micros FROM ledger_entries) e
		GROUP BY tenant, account, currency HAVING sum(amount_micros) <> 0`)
	if err != nil {
		return err
	}
	r.compare("unbalanced", "balances of ledger_entries", balances, entries)
	return nil
}

func pairs(ctx context.Context, tx pgx.Tx, sql string) (map[string]string, error) {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var key, value string
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { out[key] = value; return nil })
	return out, err
}

func (r *Report) compare(class, table string, rows, fold map[string]string) {
	r.Rows[table] = len(rows)
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(sum, "%s\x00%s\n", key, rows[key])
		if fold[key] != rows[key] {
			r.find(Finding{class, table, key, rows[key], fold[key]})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(fold)) {
		if _, there := rows[key]; !there {
			r.find(Finding{class, table, key, "", fold[key]})
		}
	}
	r.Digests[table] = domain.Digest(sum.Sum(nil))
}

func (r *Report) find(f Finding) {
	if len(r.Findings) == maxFindings {
		r.Truncated = true
		return
	}
	r.Findings = append(r.Findings, f)
}
