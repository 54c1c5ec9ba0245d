package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
)

// publishRevision makes a manifest that was staged, as an import does, the next revision of an image. Asking twice makes
// one revision.
func (s *Server) publishRevision(r *http.Request) (any, error) {
	q, err := read[api.RevisionNew](r)
	if err != nil {
		return nil, err
	}
	ctx, name := r.Context(), r.PathValue("name")
	if err := manifest.ValidName(name); err != nil {
		return nil, &api.Error{Code: "bad_request", Message: err.Error()}
	}
	id, err := chunk.ParseID(q.ID)
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: "id: " + err.Error()}
	}
	if q.New < 0 || q.Stored < 0 || q.Rev < 0 {
		return nil, &api.Error{Code: "bad_request", Message: "new and stored are numbers of bytes, rev is that of a revision"}
	}
	m, err := s.store.Manifest(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("no manifest %s was staged", id)}
	} else if err != nil {
		return nil, err
	}
	if err := store.Complete(ctx, s.store, m); err != nil {
		return nil, &api.Error{Code: "damaged", Message: fmt.Sprintf("the image is not whole, and no revision was made: %v", err), Hint: "import it again"}
	}
	var rev store.Revision
	if q.Rev > 0 {
		rev, err = s.adopt(ctx, name, id, q)
	} else {
		rev, err = jobStore{s.store, s.published}.Publish(ctx, name, id)
	}
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s was imported", rev)
	if err := s.db.Update(ctx, func(t *inventory.Tx) error {
		if err := t.PutRevision(rev.Image, rev.Rev, inventory.RevisionFacts{New: q.New, Stored: q.Stored}); err != nil {
			return err
		}
		return s.hooks.Keep(t, hook.Message{Event: "image.published", Text: text, Image: &hook.Image{Name: rev.Image, Rev: rev.Rev}})
	}); err != nil {
		s.log.Error("what is known of a revision is lost, and nobody is told of it", "image", rev.String(), "err", err)
	}
	s.log.Info(text, "image", rev.Image, "rev", rev.Rev)
	s.hooks.Wake()
	return s.apiRevision(ctx, rev, nil)
}

// adopt makes a staged manifest the revision that it is in another store, and signs it, too. One that the image has already
// is returned as it is.
func (s *Server) adopt(ctx context.Context, image string, id manifest.ID, q api.RevisionNew) (store.Revision, error) {
	revs, err := s.store.Revisions(ctx, image)
	if err != nil {
		return store.Revision{}, err
	}
	if i := slices.IndexFunc(revs, func(r store.Revision) bool { return r.ID == id }); i >= 0 {
		return revs[i], nil
	}
	r := store.Revision{Image: image, Rev: q.Rev, ID: id, Published: q.Published}
	for _, g := range q.Signatures[:min(len(q.Signatures), sign.Most-1)] { // one is ours
		r.Signatures = append(r.Signatures, store.Signature{Key: g.Key, Sig: g.Sig})
	}
	r.Signatures = sign.Right(r)
	if err := s.store.Adopt(ctx, r); errors.Is(err, store.ErrTaken) {
		return r, &api.Error{Code: "conflict", Message: err.Error(), Hint: "import it as the image's next revision, or under another name"}
	} else if err != nil {
		return r, err
	}
	return s.store.Sign(ctx, image, q.Rev)
}
