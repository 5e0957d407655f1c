package server

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
)

// push hands a changed account to the servers; each keeps it in its own folder.
func push(ctx context.Context, system *nats.Conn, accountJWT string) error {
	reply, err := system.RequestWithContext(ctx, "$SYS.REQ.CLAIMS.UPDATE", []byte(accountJWT))
	if err != nil {
		return fmt.Errorf("hand out the account: %w", err)
	}
	var out struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &out); err != nil {
		return fmt.Errorf("hand out the account: %w", err)
	}
	if out.Error != nil {
		return fmt.Errorf("hand out the account: %s", out.Error.Description)
	}
	return nil
}

// sameRights compares two templates as they are written, so that nil and empty
// lists are the same.
func sameRights(a, b jwt.UserPermissionLimits) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}
