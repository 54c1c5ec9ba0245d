package localcmd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/foreign"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/tool"
)

// importFlags are what "mimeo-agent import" can be told.
type importFlags struct {
	store  storeAt
	image  string
	format string
	disk   string
	work   string
	all    bool
	json   bool
}

// ImportCmd returns "mimeo-agent import". version goes into the manifest.
func ImportCmd(version string) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import PATH --image NAME --store PLACE",
		Short: "Make an image of what another program kept of a disk",
		Long: `Reads an image of another program, and makes it the next revision of an image: its
blocks in use are found, cut at files and stored as those of a captured disk.

  raw         a disk as it is: a file, or a block device
  qcow2, vmdk, vhdx, vhd, vdi
              files of virtual machines; needs qemu-img
  partclone   an image of one filesystem (formats 0001 and 0002), also compressed
              (gzip, zstd, xz, bzip2, lz4): a disk without a partition table
  partimage   the first volume (NAME.000) of an image of partimage 0.6, likewise
  clonezilla  a folder of Clonezilla (savedisk): partclone and dd images
  fog         a folder of FOG
  mimeo       a folder of "export --format mimeo": in a folder, its revision keeps name, number
              and signatures; a management node makes it the next one, and signs it anew

PATH is recognised by what it holds. All but raw is first written to a sparse file in
--work-dir, which takes as much room as the disk has in use, and is gone afterwards.
Every checksum that an image has is checked: one that is cut off or damaged makes no
revision.

PLACE is dir:PATH, a store in a folder, or https://ADDRESS:PORT, that of a management
node, with MIMEO_TOKEN and MIMEO_PIN, or the file that "mimeo login" made.

Exit codes: 0 done; 1 failed; 2 the command line cannot be understood; 3 there is no
such file or store; 4 refused; 130 interrupted.`,
		Example: `  mimeo-agent import rocky9.qcow2 --image rocky9 --store dir:images
  mimeo-agent import /home/partimag/lab-2024 --image lab --store dir:images
  mimeo-agent import /images/win11 --image win11 --store dir:images   # of FOG`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runImport(cmd, args[0], version, f) },
	}
	fl := cmd.Flags()
	f.store.flags(fl, "where images are kept: dir:PATH, or https://ADDRESS:PORT")
	fl.StringVar(&f.image, "image", "", "the image's `NAME`")
	fl.StringVar(&f.format, "format", "", "what PATH is, where it is not recognised: "+strings.Join(foreign.Formats, ", ")+", "+portable)
	fl.StringVar(&f.disk, "disk", "", "which disk of a folder with several: sda, d1")
	fl.StringVar(&f.work, "work-dir", "", "folder for the sparse file; by default TMPDIR, or /var/tmp")
	fl.BoolVar(&f.all, "keep-all", false, "keep what is in swap and hibernation files, too")
	fl.BoolVar(&f.json, "json", false, "print what was done as JSON")
	return cmd
}

func runImport(cmd *cobra.Command, path, version string, f importFlags) error {
	start, ctx := time.Now(), cmd.Context()
	if f.format == portable || f.format == "" && isPortable(path) {
		return importPortable(cmd, path, f)
	}
	if f.image == "" {
		return badUsage("--image NAME is missing: what should the image be called?")
	}
	if err := manifest.ValidName(f.image); err != nil {
		return &api.Error{Code: "bad_usage", Message: err.Error()}
	}
	src, err := foreign.Detect(path, f.format)
	if err != nil {
		return importError(path, err)
	}
	m := newMeter(cmd.ErrOrStderr())
	defer m.close()
	boundMemory()
	return withTarget(ctx, f.store, func(st taker) error {
		return withDisk(ctx, src, f, m, func(disk capture.Source, notes []string) error {
			opts := capture.Options{Source: manifest.Source{Agent: version}}
			out, err := captureInto(ctx, disk, path, st, f.image, leaveout.Rules{Swap: !f.all}, notes, opts, m)
			if err != nil {
				return err
			}
			m.close()
			out.Seconds = time.Since(start).Seconds()
			return out.say(cmd, f.json)
		})
	})
}

// withDisk calls fn with the disk that an image holds.
func withDisk(ctx context.Context, src foreign.Source, f importFlags, m *meter, fn func(capture.Source, []string) error) error {
	note := fmt.Sprintf("imported from %s", src.Format)
	if src.Format == foreign.Raw {
		d, err := openSource(src.Path, false)
		if err != nil {
			return err
		}
		return errors.Join(fn(capture.Source{ReaderAt: d, Disk: d.Info()}, []string{note}), d.Close())
	}
	dir := f.work
	if dir == "" {
		if dir = os.Getenv("TMPDIR"); dir == "" {
			dir = "/var/tmp"
		}
	}
	scratch, err := os.CreateTemp(dir, "mimeo-import-*")
	if err != nil {
		return fmt.Errorf("make a file for the disk: %w", err)
	}
	defer func() { _ = errors.Join(scratch.Close(), os.Remove(scratch.Name())) }()
	m.show("reading "+src.Format, 0, 0)
	d, err := src.Unpack(ctx, scratch, f.disk, func(done, total int64) { m.show("reading "+src.Format, done, total) })
	if err != nil {
		return importError(src.Path, err)
	}
	info := manifest.Disk{Size: d.Size, SectorSize: d.SectorSize}
	return fn(capture.Source{ReaderAt: scratch, Disk: info}, append([]string{note}, d.Notes...))
}

// importError says what to do about it.
func importError(path string, err error) error {
	var no *foreign.Error
	name, missing := tool.MissingPackage(err)
	switch {
	case errors.As(err, &no):
		return &api.Error{Code: "refused", Message: no.Message, Hint: no.Hint}
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, os.ErrNotExist):
		return &api.Error{Code: "not_found", Message: err.Error(), Hint: "look at the path"}
	case missing:
		return &api.Error{Code: "refused", Message: err.Error(), Hint: "install " + name}
	}
	return &api.Error{Code: "failed", Message: fmt.Sprintf("import %s: %v", path, err), Hint: "no revision was made; what is stored is used by the next try"}
}

// withTarget calls fn with a store that takes an image.
func withTarget(ctx context.Context, at storeAt, fn func(taker) error) error {
	if strings.HasPrefix(at.place, "https://") {
		return withServer(ctx, at.place, func(st *httpstore.Client, c *client.Client) error { return fn(remote{st, c}) })
	}
	st, err := openStore(ctx, at, true)
	if err != nil {
		return err
	}
	return errors.Join(fn(localStore{st}), st.Close())
}

// remote is a management node's store.
type remote struct {
	*httpstore.Client
	api *client.Client
}

func (r remote) publish(ctx context.Context, image string, res *capture.Result) (store.Revision, error) {
	return r.make(ctx, image, api.RevisionNew{ID: res.ID.String(), New: res.Counts.New, Stored: res.Counts.Stored})
}

// make makes a staged manifest a revision.
func (r remote) make(ctx context.Context, image string, q api.RevisionNew) (store.Revision, error) {
	var rev api.Revision
	if err := r.api.Do(ctx, http.MethodPost, "/v1/images/"+image+"/revisions", q, &rev); err != nil {
		return store.Revision{}, err
	}
	got, err := chunk.ParseID(rev.ID)
	if err != nil || got.String() != q.ID {
		return store.Revision{}, fmt.Errorf("the management node published %s", rev.ID)
	}
	return store.Revision{Image: rev.Image, Rev: rev.Rev, ID: got}, nil
}
