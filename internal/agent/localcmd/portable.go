package localcmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/export"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/store/mirror"
)

// portable is the format of a folder that is a store of its own: docs/formats/store.md, "A store of one revision".
const portable = "mimeo"

// exportPortable writes a store that has one revision, as it is: with its number and its signatures.
func exportPortable(ctx context.Context, from store.Reader, rev store.Revision, path string, progress export.Progress) error {
	return export.Dir(path, func(tmp string) error {
		to, err := dir.Open(tmp, dir.Options{Create: true})
		if err != nil {
			return err
		}
		rep, err := mirror.Run(ctx, oneOf{from, rev}, to, mirror.Options{Progress: func(_ store.Revision, done, total int64) { progress(done, total) }})
		if err = errors.Join(err, to.Close()); err != nil {
			return err
		}
		if len(rep.Copied) != 1 {
			return fmt.Errorf("%s cannot be copied: %s", rev, list(rep.Problems))
		}
		return nil
	})
}

// oneOf shows of a store one revision.
type oneOf struct {
	store.Reader
	rev store.Revision
}

func (o oneOf) Images(context.Context) ([]string, error) { return []string{o.rev.Image}, nil }

func (o oneOf) Revisions(context.Context, string) ([]store.Revision, error) {
	return []store.Revision{o.rev}, nil
}

// isPortable tells whether a path is a store.
func isPortable(path string) bool {
	_, err := os.Stat(filepath.Join(path, "format.json"))
	return err == nil
}

// imported is what "mimeo-agent import --json" prints of a store. Fields are only ever added.
type imported struct {
	Imported []string `json:"imported"` // NAME@REV, as they are called now
	There    int      `json:"there"`    // revisions that were there already
	Chunks   int      `json:"chunks"`   // that were not
	Stored   int64    `json:"stored"`   // their bytes
	Seconds  float64  `json:"seconds"`
}

// importPortable copies all revisions of a store in a folder, every chunk checked against its name. Into a folder they go
// as they are, and to a management node likewise, which signs them, too; where a number is another revision's there, or they
// shall have another name, they become the next revisions, with its signature alone.
func importPortable(cmd *cobra.Command, path string, f importFlags) (err error) {
	start, ctx := time.Now(), cmd.Context()
	boundMemory()
	from, err := dir.Open(path, dir.Options{ReadOnly: true})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return &api.Error{Code: "not_found", Message: err.Error(), Hint: `name the folder that "mimeo image export --format mimeo" made`}
	}
	if err != nil {
		return importError(path, err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	meter := newMeter(cmd.ErrOrStderr())
	defer meter.close()
	o := mirror.Options{Progress: func(r store.Revision, done, total int64) { meter.show("importing "+r.String(), done, total) }}
	var rep *mirror.Report
	if strings.HasPrefix(f.store.place, "https://") {
		err = withServer(ctx, f.store.place, func(st *httpstore.Client, c *client.Client) (err error) {
			to := &newcomer{remote: remote{st, c}, image: f.image, say: func(text string) {
				meter.close()
				fmt.Fprintln(cmd.ErrOrStderr(), text)
			}}
			rep, err = mirror.Run(ctx, from, to, o)
			rep.Copied = to.named
			return err
		})
	} else {
		if f.image != "" {
			e := badUsage("--image %s: a revision goes into a store under its own name, which its signatures cover", f.image)
			e.Hint = "leave --image out, or import it through a management node, which signs it anew"
			return e
		}
		var to *dir.Store
		if to, err = openStore(ctx, f.store, true); err != nil {
			return err
		}
		rep, err = mirror.Run(ctx, from, to, o)
		err = errors.Join(err, to.Close())
	}
	if err != nil {
		return importError(path, err)
	}
	if len(rep.Problems) > 0 {
		return &api.Error{Code: "failed", Message: fmt.Sprintf("import %s: %s", path, list(rep.Problems)), Hint: "what else the folder holds is imported"}
	}
	meter.close()
	out := imported{Imported: append([]string{}, rep.Copied...), There: rep.There, Chunks: rep.Chunks, Stored: rep.Stored, Seconds: time.Since(start).Seconds()}
	if f.json {
		return printJSON(cmd.OutOrStdout(), out)
	}
	for _, name := range out.Imported {
		fmt.Fprintf(cmd.OutOrStdout(), "%s is imported\n", name)
	}
	if out.There > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "%d revisions were there already\n", out.There)
	}
	return nil
}

// newcomer is a management node's store that makes each revision its next one.
type newcomer struct {
	remote
	image string // to be called so; "" for its own name
	say   func(string)
	named []string
	grew  store.PutResult // by the revision under way
}

// Revisions has none: whatever their numbers are, they become others.
func (n *newcomer) Revisions(context.Context, string) ([]store.Revision, error) { return nil, nil }

// Put implements mirror.Target.
func (n *newcomer) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	res, err := n.remote.Put(ctx, chunks)
	n.grew.Add(res)
	return res, err
}

// Adopt implements mirror.Target.
func (n *newcomer) Adopt(ctx context.Context, r store.Revision) error {
	q := api.RevisionNew{ID: r.ID.String(), New: n.grew.NewRaw, Stored: n.grew.NewStored}
	n.grew = store.PutResult{}
	image := cmp.Or(n.image, r.Image)
	as := q
	if image == r.Image {
		as.Rev, as.Published = r.Rev, r.Published
		for _, s := range r.Signatures {
			as.Signatures = append(as.Signatures, api.RevisionNewSign{Key: s.Key, Sig: s.Sig})
		}
	}
	rev, err := n.make(ctx, image, as)
	var e *api.Error
	if errors.As(err, &e) && e.Code == "conflict" && as.Rev > 0 {
		if rev, err = n.make(ctx, image, q); err == nil {
			n.say(fmt.Sprintf("%s is another revision there, or was: %s is imported as %s, without the signatures that it had", r, r, rev))
		}
	}
	if err == nil {
		n.named = append(n.named, rev.String())
	}
	return err
}
