package streams

import (
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
)

// headerRefusal marks a reply that is a refusal; its value is the refusal as JSON.
const headerRefusal = "Gpuaas-Refusal"

// wireRefusal is a domain.Error as it travels: without its cause.
type wireRefusal struct {
	Kind      string `json:"kind"`
	Code      string `json:"code"`
	Message   string `json:"message"`
	Field     string `json:"field,omitempty"`
	Retryable bool   `json:"retryable,omitempty"`
}

// NewReply is the answer to a request: data, or a refusal. An error that is no
// refusal becomes "internal", and its text stays here.
func NewReply(data []byte, err error) *nats.Msg {
	if err == nil {
		return &nats.Msg{Data: data}
	}
	e := domain.AsError(err)
	text, err := json.Marshal(wireRefusal{e.Kind.String(), e.Code, e.Message, e.Field, e.Retryable})
	if err != nil {
		text = []byte(`{"kind":"internal","code":"internal","message":"internal error"}`)
	}
	return &nats.Msg{Header: nats.Header{headerRefusal: {string(text)}}}
}

// ParseReply is the other side of [NewReply]: a refusal comes back as a
// *domain.Error.
func ParseReply(m *nats.Msg) ([]byte, error) {
	text := m.Header.Get(headerRefusal)
	if text == "" {
		return m.Data, nil
	}
	var w wireRefusal
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, fmt.Errorf("refusal %.80q: %w", text, err)
	}
	e := &domain.Error{Kind: domain.Internal, Code: w.Code, Message: w.Message, Field: w.Field, Retryable: w.Retryable}
	for k := domain.Invalid; k <= domain.Unavailable; k++ {
		if k.String() == w.Kind {
			e.Kind = k
		}
	}
	return nil, e
}
