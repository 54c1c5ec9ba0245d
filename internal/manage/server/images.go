package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/stateless"
)

func (s *Server) apiRevision(ctx context.Context, r store.Revision, pins map[int]bool) (api.Revision, error) {
	f, err := s.db.Revision(ctx, r.Image, r.Rev)
	by, ok := s.apiSignatures(r)
	return api.Revision{Image: r.Image, Rev: r.Rev, ID: r.ID.String(), Created: r.Created, DiskSize: r.DiskSize, Used: r.Used, Node: f.Node, New: f.New, Stored: f.Stored, Pinned: pins[r.Rev], Trusted: ok, Signatures: by}, err
}

func (s *Server) image(ctx context.Context, name string) (api.Image, error) {
	im := api.Image{Name: name, Revisions: []api.Revision{}}
	if err := manifest.ValidName(name); err != nil {
		return im, &api.Error{Code: "bad_request", Message: err.Error()}
	}
	revs, err := s.store.Revisions(ctx, name)
	if err != nil {
		return im, err
	}
	pins, err := s.db.Pins(ctx, name)
	if err != nil {
		return im, err
	}
	for _, r := range revs {
		a, err := s.apiRevision(ctx, r, pins)
		if err != nil {
			return im, err
		}
		im.Revisions = append(im.Revisions, a)
	}
	im.Set, err = s.db.ImageSet(ctx, name)
	return im, err
}

func (s *Server) listImages(r *http.Request) (any, error) {
	names, err := s.store.Images(r.Context())
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	out := []api.Image{}
	for _, n := range names {
		im, err := s.image(r.Context(), n)
		if err != nil {
			return nil, err
		}
		out = append(out, im)
	}
	return out, nil
}

func (s *Server) showImage(r *http.Request) (any, error) {
	im, err := s.image(r.Context(), r.PathValue("name"))
	if err == nil && len(im.Revisions) == 0 && len(im.Set) == 0 {
		return nil, noImage(r.PathValue("name"))
	}
	return im, err
}

func noImage(what string) error {
	return &api.Error{Code: "not_found", Message: fmt.Sprintf("no image %q", what), Hint: `"mimeo image list" shows all`}
}

// revision finds what a path names, with its manifest.
func (s *Server) revision(r *http.Request) (store.Revision, *manifest.Manifest, error) {
	name, revText := r.PathValue("name"), r.PathValue("rev")
	rev, err := strconv.Atoi(revText)
	if err != nil || rev < 1 || manifest.ValidName(name) != nil {
		return store.Revision{}, nil, noImage(name + "@" + revText)
	}
	found, err := store.Find(r.Context(), s.store, name, rev)
	if errors.Is(err, store.ErrNotFound) {
		return found, nil, noImage(name + "@" + revText)
	}
	if err != nil {
		return found, nil, err
	}
	m, err := s.store.Manifest(r.Context(), found.ID)
	return found, m, err
}

func (s *Server) showRevision(r *http.Request) (any, error) {
	rev, m, err := s.revision(r)
	if err != nil {
		return nil, err
	}
	pins, err := s.db.Pins(r.Context(), rev.Image)
	if err != nil {
		return nil, err
	}
	a, err := s.apiRevision(r.Context(), rev, pins)
	return api.ImageDetail{Revision: a, Manifest: m, BootTest: s.lastBootTest(rev)}, err
}

func (s *Server) removeRevision(r *http.Request) (any, error) {
	name := r.PathValue("name")
	rev, err := strconv.Atoi(r.PathValue("rev"))
	if err != nil || rev < 1 || manifest.ValidName(name) != nil {
		return nil, noImage(name + "@" + r.PathValue("rev"))
	}
	if err := s.remove(r.Context(), name, rev); err != nil {
		return nil, err
	}
	return api.Affected{Names: []string{fmt.Sprintf("%s@%d", name, rev)}}, nil
}

// remove removes a revision that no job deploys.
func (s *Server) remove(ctx context.Context, name string, rev int) error {
	s.retire.Lock()
	defer s.retire.Unlock()
	for _, j := range s.jobs.Active() {
		if j.Kind == api.TaskDeploy && j.Image == name && j.Rev == rev {
			return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s@%d is being deployed to %s by job %s", name, rev, j.Node, j.ID), Hint: "wait for it, or cancel it"}
		}
	}
	pins, err := s.db.Pins(ctx, name)
	if err != nil {
		return err
	}
	if pins[rev] {
		return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s@%d is pinned", name, rev), Hint: fmt.Sprintf("mimeo image unpin %s@%d", name, rev)}
	}
	if found, err := store.Find(ctx, s.store, name, rev); err == nil {
		s.forgetBootTest(found)
	}
	// A manifest that is damaged must not keep its revision from being removed.
	if err := s.store.Remove(ctx, name, rev); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return noImage(fmt.Sprintf("%s@%d", name, rev))
		}
		return err
	}
	s.tell(context.WithoutCancel(ctx), hook.Message{Event: "image.removed", Text: "removed", Image: &hook.Image{Name: name, Rev: rev}})
	return nil
}

// verifyRevision reads a revision back and streams how far it is.
func (s *Server) verifyRevision(w http.ResponseWriter, r *http.Request) {
	rev, m, err := s.revision(r)
	if err != nil && m == nil && rev.Rev == 0 {
		writeError(w, err)
		return
	}
	send := sse(w)
	if err != nil {
		send(api.VerifyProgress{Finished: true, Error: &api.Error{Code: "damaged", Message: fmt.Sprintf("%s: its manifest cannot be read: %v", rev, err)}})
		return
	}
	var last time.Time
	var total int64
	v, err := store.Verify(r.Context(), s.store, m, func(done, all int64) {
		total = all
		if time.Since(last) > 300*time.Millisecond {
			last = time.Now()
			send(api.VerifyProgress{Done: done, Total: all})
		}
	})
	p := api.VerifyProgress{Done: v.Bytes, Total: max(total, v.Bytes), Finished: true}
	switch {
	case err != nil:
		p.Error = &api.Error{Code: "internal", Message: fmt.Sprintf("verify %s: %v", rev, err)}
	case v.First != nil:
		p.Error = &api.Error{Code: "damaged", Message: fmt.Sprintf("%s is not whole: %d chunks damaged, %d missing, %d bytes of the disk lost; first: %v", rev, v.Damaged, v.Missing, v.Lost, v.First),
			Hint: "capture it again: chunks that are damaged are stored anew"}
	}
	send(p)
}

func (s *Server) listStateless(*http.Request) (any, error) {
	all, err := stateless.List(s.cfg.State)
	return apiStateless(all), err
}

func apiStateless(all []stateless.Stateless) []api.Stateless {
	out := []api.Stateless{}
	for _, im := range all {
		out = append(out, im.API())
	}
	return out
}

func (s *Server) showStateless(r *http.Request) (any, error) {
	all, err := stateless.Show(s.cfg.State, r.PathValue("profile"), "")
	return apiStateless(all), err
}

// buildStateless builds and streams what it does. One build at a time: each keeps both cores and the disk busy.
func (s *Server) buildStateless(w http.ResponseWriter, r *http.Request) {
	req, err := read[api.StatelessNew](r)
	if err != nil {
		writeError(w, err)
		return
	}
	if !s.builds.TryLock() {
		writeError(w, &api.Error{Code: "busy", Message: "a stateless image is being built already", Hint: "try again when it is done"})
		return
	}
	defer s.builds.Unlock()
	if len(req.Archs) == 0 {
		req.Archs = []node.Arch{stateless.OwnArch()}
	}
	send := sse(w)
	var built []api.Stateless
	for _, a := range req.Archs {
		agent, err := stateless.AgentBinary(s.cfg.Agent, a)
		var im stateless.Stateless
		if err == nil {
			im, err = stateless.Build(r.Context(), stateless.Options{Profile: req.Profile, Arch: a, StateDir: s.cfg.State, AgentBinary: agent, Progress: func(line string) { send(api.StatelessProgress{Line: line}) }})
		}
		if err != nil {
			s.log.Error("stateless image is not built", "profile", req.Profile, "arch", a, "err", err)
			send(api.StatelessProgress{Finished: true, Built: built, Error: toAPIError(err)})
			return
		}
		built = append(built, im.API())
	}
	send(api.StatelessProgress{Finished: true, Built: built})
}

func (s *Server) removeStateless(r *http.Request) (any, error) {
	ctx, profile, arch := r.Context(), r.PathValue("profile"), node.Arch(r.FormValue("arch"))
	for _, j := range s.jobs.Active() {
		n, err := s.db.Node(ctx, j.Node)
		if err != nil {
			return nil, err
		}
		if orDefault(n.Profile, "imaging") == profile && (arch == "" || n.Arch == "" || n.Arch == arch) {
			return nil, &api.Error{Code: "conflict", Message: fmt.Sprintf("%s boots it for job %s", n.Name, j.ID), Hint: "wait for the job, or cancel it: mimeo job cancel " + j.ID}
		}
	}
	// The one in use goes, too: who says rm means it. A node that boots just now has its files open.
	names, err := stateless.Remove(ctx, s.cfg.State, profile, arch, "", true)
	return api.Affected{Names: names}, err
}
