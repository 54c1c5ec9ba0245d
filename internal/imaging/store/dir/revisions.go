package dir

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/keys"
)

// revision is the content of images/NAME/REV.json.
type revision struct {
	Version int `json:"version"` // of this record: 1
	store.Revision
}

const (
	revVersion = 1
	revExt     = ".json"
	removedExt = ".removed"
	maxRev     = 1 << 16 // bytes of a revision's record
	maxTaken   = 100     // numbers that Publish tries
)

func manifestName(id manifest.ID) string { return manifestsDir + "/" + id.String() + ".json" }

func revName(image string, rev int, ext string) string {
	return fmt.Sprintf("%s/%s/%d%s", imagesDir, image, rev, ext)
}

// Manifest implements store.Reader.
func (s *Store) Manifest(ctx context.Context, id manifest.ID) (*manifest.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := s.readSealed(manifestName(id), manifest.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest %s: %w", id, store.ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", id, err)
	}
	if got := manifest.Sum(b); got != id {
		return nil, fmt.Errorf("manifest %s is damaged: the hash of %s is %s", id, s.path(manifestName(id)), got)
	}
	return manifest.Decode(b)
}

// Stage implements store.Writer.
func (s *Store) Stage(ctx context.Context, m *manifest.Manifest) (manifest.ID, error) {
	b, err := manifest.Encode(m)
	if err != nil {
		return manifest.ID{}, err
	}
	if err := s.Flush(ctx); err != nil {
		return manifest.ID{}, err
	}
	if err := store.Complete(ctx, s, m); err != nil {
		return manifest.ID{}, fmt.Errorf("stage manifest: %w", err)
	}
	id := manifest.Sum(b)
	s.smu.Lock()
	s.staged[id] = s.epochs.now() // before looking whether it is there: a clean-up may be about to remove it
	s.smu.Unlock()
	if old, err := s.readSealed(manifestName(id), manifest.MaxSize); err == nil && bytes.Equal(old, b) {
		// An earlier Stage may have failed after the rename.
		if err := s.fs.SyncDir(manifestsDir); err != nil {
			return id, fmt.Errorf("stage manifest: %w", full(err))
		}
		return id, nil
	}
	return id, s.writeSealed(manifestName(id), b, true)
}

// Images implements store.Reader.
func (s *Store) Images(ctx context.Context) ([]string, error) {
	list, err := s.fs.ReadDir(imagesDir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var names []string
	for _, e := range list {
		if !e.Dir || manifest.ValidName(e.Name) != nil {
			continue
		}
		numbers, _, err := s.numbers(e.Name)
		if err != nil {
			return nil, err
		}
		if len(numbers) > 0 {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names, ctx.Err()
}

// numbers returns the published revision numbers of an image in ascending order, and the greatest that was ever given.
func (s *Store) numbers(image string) (numbers []int, last int, err error) {
	list, err := s.fs.ReadDir(imagesDir + "/" + image)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, fmt.Errorf("list revisions of %s: %w", image, err)
	}
	for _, e := range list {
		text, published := strings.CutSuffix(e.Name, revExt)
		if !published {
			var removed bool
			if text, removed = strings.CutSuffix(e.Name, removedExt); !removed {
				continue
			}
		}
		n, err := manifest.ParseRev(text)
		if err != nil {
			continue
		}
		last = max(last, n)
		if published {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, last, nil
}

// Revisions implements store.Reader.
func (s *Store) Revisions(ctx context.Context, image string) ([]store.Revision, error) {
	if err := manifest.ValidName(image); err != nil {
		return nil, err
	}
	numbers, _, err := s.numbers(image)
	if err != nil {
		return nil, err
	}
	revs := make([]store.Revision, 0, len(numbers))
	for _, n := range numbers {
		r, err := s.revision(image, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		} else if err != nil {
			return nil, err
		}
		revs = append(revs, r)
	}
	return revs, ctx.Err()
}

// stagedIn returns the epoch in which a manifest was staged last, 0 where this process did not.
func (s *Store) stagedIn(id manifest.ID) uint32 {
	s.smu.Lock()
	defer s.smu.Unlock()
	return s.staged[id]
}

func (s *Store) revision(image string, rev int) (store.Revision, error) {
	return s.record(image, rev, revExt)
}

// record reads the record of a revision, or of one that was removed.
func (s *Store) record(image string, rev int, ext string) (store.Revision, error) {
	name := revName(image, rev, ext)
	b, err := s.readSealed(name, maxRev)
	if err != nil {
		return store.Revision{}, fmt.Errorf("%s@%d: %w", image, rev, err)
	}
	var r revision
	if err := json.Unmarshal(b, &r); err != nil {
		return store.Revision{}, fmt.Errorf("%s@%d: %s is damaged: %w", image, rev, s.path(name), err)
	}
	if r.Version != revVersion || r.Image != image || r.Rev != rev {
		return store.Revision{}, fmt.Errorf("%s@%d: %s is damaged: it says version %d, %s@%d", image, rev, s.path(name), r.Version, r.Image, r.Rev)
	}
	return r.Revision, nil
}

// Publish implements store.Publisher.
func (s *Store) Publish(ctx context.Context, image string, id manifest.ID) (store.Revision, error) {
	if err := s.writable(ctx); err != nil {
		return store.Revision{}, err
	}
	s.pmu.Lock()
	defer s.pmu.Unlock()
	revs, err := s.Revisions(ctx, image)
	if err != nil {
		return store.Revision{}, err
	}
	if i := slices.IndexFunc(revs, func(r store.Revision) bool { return r.ID == id }); i >= 0 {
		// An earlier Publish may have failed, or its process ended, after the rename.
		if err := s.fs.SyncDir(imagesDir + "/" + image); err != nil {
			return store.Revision{}, fmt.Errorf("publish %s: %w", revs[i], full(err))
		}
		return s.sign(revs[i])
	}
	m, err := s.Manifest(ctx, id)
	if err != nil {
		return store.Revision{}, err
	}
	_, last, err := s.numbers(image)
	if err != nil {
		return store.Revision{}, err
	}
	if err := s.imageDir(image); err != nil {
		return store.Revision{}, fmt.Errorf("publish %s: %w", image, err)
	}
	r := store.NewRevision(image, last+1, id, m)
	r.Published = time.Now().UTC().Truncate(time.Second)
	for tries := 1; ; tries++ {
		if s.signer != nil {
			r.Signatures = []store.Signature{s.signer(r)}
		}
		// A list may lag behind what is there: then the number is taken, or was.
		err := s.free(revName(image, r.Rev, removedExt))
		if err == nil {
			err = s.writeRecord(r, false)
		}
		if errors.Is(err, fs.ErrExist) && tries < maxTaken {
			r.Rev++
		} else if err != nil {
			return store.Revision{}, fmt.Errorf("publish %s: %w", r, err)
		} else {
			return r, nil
		}
	}
}

// Adopt makes a staged manifest the revision that it is in another store: with its number, its times and its signatures.
// One that is there already stays as it is. Where the number belongs to another manifest, or was removed here, that is
// store.ErrTaken.
func (s *Store) Adopt(ctx context.Context, r store.Revision) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	if err := manifest.ValidName(r.Image); err != nil {
		return err
	}
	if r.Rev < 1 {
		return fmt.Errorf("adopt %s: a revision's number is 1 or more", r)
	}
	s.pmu.Lock()
	defer s.pmu.Unlock()
	old, err := s.revision(r.Image, r.Rev)
	switch {
	case err == nil && old.ID == r.ID:
		return nil
	case err == nil:
		return fmt.Errorf("%s is another capture here: %w", r, store.ErrTaken)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := s.free(revName(r.Image, r.Rev, removedExt)); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s was removed here: %w", r, store.ErrTaken)
	} else if err != nil {
		return err
	}
	m, err := s.Manifest(ctx, r.ID)
	if err != nil {
		return err
	}
	// What the record repeats is the manifest's.
	own := store.NewRevision(r.Image, r.Rev, r.ID, m)
	own.Published, own.Signatures = r.Published, r.Signatures
	if err := s.imageDir(r.Image); err != nil {
		return fmt.Errorf("adopt %s: %w", r, err)
	}
	if err := s.writeRecord(own, false); err != nil {
		return fmt.Errorf("adopt %s: %w", r, err)
	}
	return nil
}

// imageDir makes the folder for an image's revisions.
func (s *Store) imageDir(image string) error {
	if err := s.fs.Mkdir(imagesDir + "/" + image); err != nil {
		return full(err)
	}
	return full(s.fs.SyncDir(imagesDir))
}

// free is fs.ErrExist where there is such a file.
func (s *Store) free(name string) error {
	_, err := s.readFile(name, maxRev+int64(keys.Over))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err == nil {
		err = fmt.Errorf("%s: %w", s.path(name), fs.ErrExist)
	}
	return err
}

func (s *Store) writeRecord(r store.Revision, replace bool) error {
	b, err := json.MarshalIndent(revision{revVersion, r}, "", "  ")
	if err != nil {
		return err
	}
	if len(b) >= maxRev {
		return fmt.Errorf("the record would have %d bytes, at most %d", len(b)+1, maxRev)
	}
	return s.writeSealed(revName(r.Image, r.Rev, revExt), append(b, '\n'), replace)
}

// Sign adds the signature that Options.Sign makes to a published revision, after it has looked that every chunk which
// the revision needs is there. Signatures by others stay. It changes nothing where the revision has that signature.
func (s *Store) Sign(ctx context.Context, image string, rev int) (store.Revision, error) {
	if err := s.writable(ctx); err != nil {
		return store.Revision{}, err
	}
	if s.signer == nil {
		return store.Revision{}, fmt.Errorf("sign %s@%d: the store was opened without a key", image, rev)
	}
	s.pmu.Lock()
	defer s.pmu.Unlock()
	r, err := store.Find(ctx, s, image, rev)
	if err != nil {
		return r, err
	}
	m, err := s.Manifest(ctx, r.ID)
	if err == nil {
		err = store.Complete(ctx, s, m)
	}
	if err == nil {
		// What the record repeats is what people see of what they sign.
		like := store.NewRevision(r.Image, r.Rev, r.ID, m)
		if !r.Created.Equal(like.Created) || r.Used != like.Used || r.DiskSize != like.DiskSize {
			err = errors.New("its record and its manifest do not fit")
		}
	}
	if err != nil {
		return r, fmt.Errorf("sign %s: %w", r, err)
	}
	return s.sign(r)
}

// sign adds our signature to a record that lacks it. The caller holds pmu.
func (s *Store) sign(r store.Revision) (store.Revision, error) {
	if s.signer == nil {
		return r, nil
	}
	own := s.signer(r)
	if slices.Contains(r.Signatures, own) {
		return r, nil
	}
	// One by this key that is another one is wrong: Ed25519 has one signature for each message.
	others := slices.DeleteFunc(slices.Clone(r.Signatures), func(o store.Signature) bool { return o.Key == own.Key })
	r.Signatures = append([]store.Signature{own}, others...)
	if err := s.writeRecord(r, true); err != nil {
		return r, fmt.Errorf("sign %s: %w", r, err)
	}
	return r, nil
}

// Remove implements store.Publisher. The record stays under another name, so that its number is not given again.
func (s *Store) Remove(ctx context.Context, image string, rev int) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	if err := manifest.ValidName(image); err != nil {
		return err
	}
	s.pmu.Lock()
	defer s.pmu.Unlock()
	err := s.fs.Rename(revName(image, rev, revExt), revName(image, rev, removedExt), true)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s@%d: %w", image, rev, store.ErrNotFound)
	}
	if err == nil {
		err = s.fs.SyncDir(imagesDir + "/" + image)
	}
	if err != nil {
		return fmt.Errorf("remove %s@%d: %w", image, rev, full(err))
	}
	return nil
}

// all returns every published revision, without its signatures, sorted by image and number. Records that cannot be read are given to bad, by their files.
func (s *Store) all(ctx context.Context, bad func(name string, err error)) ([]store.Revision, error) {
	names, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	var all []store.Revision
	for _, name := range names {
		numbers, _, err := s.numbers(name)
		if err != nil {
			return nil, err
		}
		for _, n := range numbers {
			r, err := s.revision(name, n)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			} else if err != nil {
				bad(revName(name, n, revExt), err)
				continue
			}
			r.Signatures = nil // who goes over the store looks at chunks
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b store.Revision) int { return cmp.Compare(a.Image, b.Image) })
	return all, ctx.Err()
}
