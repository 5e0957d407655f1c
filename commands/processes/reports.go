package processes

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// Reports turns host reports into commands. The host is who the credential says;
// its signature is verified here, what it says is judged by the domain.
type Reports struct {
	Loop  Loop
	Keys  func(domain.HostID) (commands.HostKeys, bool)
	Audit func(Denied)
	Clock func() time.Time
}

// reportTimeout bounds one report's way through the loop.
const reportTimeout = 10 * time.Second

// maxDeliveries is how often a report that comes out of order waits for the ones
// before it. After that the host's journal sends it again.
const maxDeliveries = 5

// Handle decides one report. An error asks for it to be delivered again.
func (r *Reports) Handle(ctx context.Context, host domain.HostID, data []byte, delivery uint64) error {
	refuse := func(code, detail string) error {
		r.Audit(Denied{Actor: host.String(), Action: "host.report", Code: code, Detail: detail})
		return nil
	}
	signed, err := domain.DecodeSignedReport(data)
	if err != nil {
		return refuse("report.malformed", err.Error())
	}
	keys, ok := r.Keys(host)
	if !ok {
		return refuse("host.unknown", "")
	}
	if len(keys.Sign) != ed25519.PublicKeySize || !ed25519.Verify(keys.Sign, signed.Report, signed.Signature) {
		return refuse("report.bad_signature", "")
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	now := r.Clock()
	cmd := &domain.Command{
		Actor: domain.Actor{Kind: domain.ActorHost, Host: host},
		Body:  &domain.RecordReport{Host: host, Report: signed.Report, Signature: signed.Signature},
	}
	cmd.ID = commands.NewCommandID(now, domain.Entropy(domain.DigestOf(data)))
	reply := r.Loop.Submit(ctx, cmd)
	if reply.Err == nil {
		for _, e := range reply.Events {
			if done, ok := e.(*domain.HostReported); ok && done.Refused != "" {
				return refuse(done.Refused, fmt.Sprintf("%s report %d", done.Kind, done.Number))
			}
		}
		return nil
	}
	if reply.Err.Kind == domain.Unavailable || reply.Err.Kind == domain.Internal {
		if reply.Err.Code == "report.out_of_order" && delivery >= maxDeliveries {
			return refuse(reply.Err.Code, reply.Err.Message)
		}
		return reply.Err
	}
	return refuse(reply.Err.Code, reply.Err.Message)
}
