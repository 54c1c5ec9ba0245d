package server

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/job"
)

// checkWipe refuses a wipe that does not say clearly what it is to do.
func checkWipe(req api.JobNew) error {
	switch {
	case req.Image != "":
		return &api.Error{Code: "bad_request", Message: "a wipe has no image"}
	case req.Method != "" && !slices.Contains(api.WipeMethods, req.Method):
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("wipe method %q is none of %s", req.Method, strings.Join(api.WipeMethods, ", "))}
	}
	return nil
}

// fixedDisks are those that a wipe of all disks erases, as last reported.
func fixedDisks(hw *api.Hardware) []api.Disk {
	if hw == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(hw.Disks), func(d api.Disk) bool { return d.Removable || d.ReadOnly })
}

// prove signs what an agent says of the disks that it wiped.
func (s *Server) prove(ctx context.Context, r job.Record, report api.WipeReport) (api.SignedCertificate, error) {
	c := api.Certificate{Version: api.CertificateVersion, Job: r.ID, Node: r.Node, Disks: report.Disks, Agent: report.Agent, Build: report.Build, Server: s.version, Issued: time.Now().UTC().Truncate(time.Second)}
	f, err := s.db.Facts(ctx, r.Node)
	if err != nil {
		return api.SignedCertificate{}, err
	}
	if hw := f.Hardware; hw != nil {
		c.Machine = api.Machine{Vendor: hw.Vendor, Product: hw.Product, Serial: hw.Serial, UUID: hw.UUID}
	}
	plain(reflect.ValueOf(&c).Elem())
	text, err := json.Marshal(c)
	if err != nil {
		return api.SignedCertificate{}, err
	}
	return api.SignedCertificate{Certificate: text, Algorithm: "ed25519", Key: s.key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(s.key, text)}, nil
}

func (s *Server) jobCertificate(r *http.Request) (any, error) {
	id := r.PathValue("id")
	c, err := s.db.Certificate(r.Context(), id)
	if !errors.Is(err, inventory.ErrNotFound) {
		return c, err
	}
	rec, err := s.jobs.Get(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if rec.Kind != api.TaskWipe {
		return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("job %s is a %s: only a wipe has a certificate", id, rec.Kind)}
	}
	return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("job %s has no certificate: it is %s", id, rec.Phase), Hint: "one is made when all disks of the job are wiped and checked"}
}

// plain makes all text such that every program writes it alike in JSON: what some escape and others do not becomes a
// hyphen, so that whoever writes the certificate anew gets the bytes that were signed.
func plain(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' || strings.ContainsRune("<>&", r) {
				return '-'
			}
			return r
		}, v.String()))
	case reflect.Slice:
		for i := range v.Len() {
			plain(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			plain(v.Field(i))
		}
	}
}

func (s *Server) listCertificates(r *http.Request) (any, error) {
	all, err := s.db.Certificates(r.Context())
	if err != nil {
		return nil, err
	}
	out := []api.CertificateEntry{}
	for _, sc := range all {
		var c api.Certificate
		if err := json.Unmarshal(sc.Certificate, &c); err != nil {
			return nil, fmt.Errorf("a certificate cannot be read: %w", err)
		}
		e := api.CertificateEntry{Job: c.Job, Node: c.Node, Issued: c.Issued}
		for _, d := range c.Disks {
			e.Disks = append(e.Disks, orDefault(d.Disk.Serial, d.Disk.Name))
		}
		out = append(out, e)
	}
	return out, nil
}
