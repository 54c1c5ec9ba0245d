package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/manage/config"
)

// ownName is what our own key is called.
const ownName = "this management node"

// trusted are the keys whose signatures count: our own first, then those of the configuration, which Complete checked.
func trusted(own ed25519.PrivateKey, more []config.Trust) sign.Keys {
	keys := sign.Keys{{Name: ownName, Public: own.Public().(ed25519.PublicKey)}}
	for _, t := range more {
		keys = append(keys, sign.Key{Name: t.Name, Public: t.Public()})
	}
	return keys
}

// apiKeys are the keys as people and agents are told them.
func (s *Server) apiKeys() (out []api.TrustedKey) {
	for i, k := range s.trust {
		out = append(out, api.TrustedKey{Name: k.Name, Key: sign.Text(k.Public), Own: i == 0})
	}
	return out
}

func (s *Server) listKeys(*http.Request) (any, error) { return s.apiKeys(), nil }

// apiSignatures says who signed a revision, and whether one of them is trusted.
func (s *Server) apiSignatures(r store.Revision) (out []api.Signature, ok bool) {
	for _, f := range s.trust.Look(r) {
		out = append(out, api.Signature{Key: f.Key, Name: f.Name, State: string(f.State)})
		ok = ok || f.State == sign.Trusted
	}
	return out, ok
}

// mustBeSigned refuses a revision that nobody who is trusted has signed, and says what to do about it.
func (s *Server) mustBeSigned(r store.Revision) error {
	err := s.trust.Check(r)
	var e *sign.Error
	if !errors.As(err, &e) {
		return err
	}
	out := &api.Error{Code: "untrusted", Message: e.Error() + "; no node was touched",
		Hint: fmt.Sprintf(`if you know whose key it is, name it under "trust" in %s and start mimeod anew; or sign the image yourself: mimeo image sign %s`, s.cfg.File(), r)}
	if e.Unsigned() {
		out.Code, out.Hint = "unsigned", fmt.Sprintf("if you know where it comes from, sign it: mimeo image sign %s", r)
	}
	for _, f := range e.Found {
		if f.State == sign.Wrong {
			out.Hint = fmt.Sprintf("what the store says of it was changed: bring images/%s/%d.json back from a copy of the store, or capture the image again", r.Image, r.Rev)
		}
	}
	return out
}

// signRevision adds our signature to a revision that an admin vouches for.
func (s *Server) signRevision(r *http.Request) (any, error) {
	rev, m, err := s.revision(r)
	if err != nil {
		return nil, err
	}
	if err := store.Complete(r.Context(), s.store, m); err != nil {
		return nil, &api.Error{Code: "damaged", Message: fmt.Sprintf("%s is not whole, and was not signed: %v", rev, err), Hint: "mimeo image verify " + rev.String()}
	}
	if rev, err = s.store.Sign(r.Context(), rev.Image, rev.Rev); err != nil {
		return nil, err
	}
	pins, err := s.db.Pins(r.Context(), rev.Image)
	if err != nil {
		return nil, err
	}
	return s.apiRevision(r.Context(), rev, pins)
}

// signOld signs, once, the revisions that were made before revisions were signed. It does nothing where the state folder
// is new: what a store brings along, an admin must vouch for. docs/design/signatures.md says why.
func (s *Server) signOld(ctx context.Context) error {
	note := filepath.Join(s.cfg.State, "tls", "signs-revisions")
	if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	old, err := s.db.HasTokens(ctx)
	if err != nil {
		return err
	}
	if old {
		if err := s.signUnsigned(ctx); err != nil {
			return err
		}
	}
	return writeSecret(note, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"))
}

// signUnsigned signs each revision that has no signature. One that cannot be read stays as it is.
func (s *Server) signUnsigned(ctx context.Context) error {
	names, err := s.store.Images(ctx)
	if err != nil {
		return err
	}
	var done []string
	for _, name := range names {
		revs, err := s.store.Revisions(ctx, name)
		if err != nil {
			s.log.Error("revisions are not signed", "image", name, "err", err)
			continue
		}
		for _, r := range revs {
			if len(r.Signatures) > 0 {
				continue
			}
			if _, err := s.store.Sign(ctx, r.Image, r.Rev); errors.Is(err, store.ErrFull) || ctx.Err() != nil {
				return fmt.Errorf("sign the revisions from before: %w", err)
			} else if err != nil {
				s.log.Error("a revision is not signed", "image", r.String(), "err", err)
				continue
			}
			done = append(done, r.String())
		}
	}
	if len(done) > 0 {
		s.log.Info("revisions from before revisions were signed are signed now", "revisions", len(done), "images", strings.Join(done[:min(len(done), 20)], " "))
	}
	return nil
}
