package job

import (
	"context"
	"fmt"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
)

// Prove makes the certificate of a wipe that is done. The server gives it, with its key.
type Prove func(ctx context.Context, r Record, report api.WipeReport) (api.SignedCertificate, error)

// certify makes the certificate of a wipe, and returns what keeps it together with the boot state. An agent that says
// it is done and does not say of each disk what it did has done nothing that can be proved.
func (e *Engine) certify(ctx context.Context, r *Record) (func(*inventory.Tx, *Record) error, error) {
	report := r.DoneMsg.Wipe
	if report == nil || len(report.Disks) == 0 {
		return nil, noProof("the agent does not say which disk it wiped")
	}
	if !r.Request.AllDisks && len(report.Disks) != 1 {
		return nil, noProof(fmt.Sprintf("one disk was to be wiped, and the agent tells of %d", len(report.Disks)))
	}
	for _, d := range report.Disks {
		if d.Method == "" || d.Verified == "" || d.Start.IsZero() || d.End.Before(d.Start) || d.Asked != wanted(r.Request) {
			return nil, noProof("the agent does not say how it wiped and checked disk " + d.Disk.Name)
		}
	}
	if e.prove == nil {
		return nil, noProof("this server signs none")
	}
	c, err := e.prove(ctx, *r, *report)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return func(t *inventory.Tx, r *Record) error {
		n, err := t.Node(r.Node)
		if err != nil {
			return err
		}
		n.LastImage = ""
		if err := t.PutNode(n); err != nil {
			return err
		}
		return t.PutCertificate(r.ID, c)
	}, nil
}

func noProof(why string) error {
	return &api.Error{Code: "no_proof", Message: "no certificate can be made: " + why, Hint: "build the stateless image again, so that its agent is of this version: mimeo stateless build"}
}

// wanted is the method that a request means.
func wanted(req api.JobNew) string {
	if req.Method == "" {
		return api.WipeAuto
	}
	return req.Method
}
