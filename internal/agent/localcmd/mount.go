package localcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/imaging/mount"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/httpstore"
)

// mountedJSON is what "mount --json" prints when the image is there.
type mountedJSON struct {
	Image   string        `json:"image"` // NAME@REV
	ID      string        `json:"id"`
	Dir     string        `json:"dir"`
	Disk    string        `json:"disk"` // path of disk.img
	Size    int64         `json:"size"` // bytes
	Volumes []mount.Shown `json:"volumes"`
}

// MountCmd returns "mimeo-agent mount".
func MountCmd() *cobra.Command {
	var at storeAt
	var others, asJSON bool
	cmd := &cobra.Command{
		Use:   "mount NAME[@REV] DIR --store PLACE",
		Short: "Show an image as a folder, without deploying it",
		Long: `Shows a captured disk at DIR, read-only, straight from the store, until ctrl-C,
SIGTERM or "umount DIR". DIR is made where it is missing, and must be empty.

  disk.img        the whole disk, as large as it was: what is not in use are holes
  volumes/N.img   the bytes of partition N; volumes/N/VG/LV.img of a volume in it
  files/N/        the files of partition N; files/N/VG/LV of a volume in it
                  (ext2, ext3, ext4, XFS, btrfs, NTFS, FAT, exFAT, F2FS)

PLACE is dir:PATH, a store in a folder, s3://BUCKET/PREFIX, or https://ADDRESS:PORT, that of a management
node; then MIMEO_TOKEN and MIMEO_PIN (an admin's token and the key's pin) are read from
the environment, or the file that "mimeo login" made. Every byte is checked against
the image's hashes when it is read: what is damaged gives an input/output error, and a
line here says why.

Only who mounts may look. With --allow-other others may, as far as the modes of the
files let them, for which a user who is not root needs user_allow_other in
/etc/fuse.conf.

Exit codes: 0 unmounted; 1 failed; 2 the command line cannot be understood; 3 no such
image or store; 4 this system cannot mount, or not at DIR.`,
		Example: `  mimeo-agent mount rocky9 /mnt/rocky9 --store dir:images
  mount -o loop,ro,norecovery /mnt/rocky9/volumes/3.img /mnt/3   # of a kind it has no files of`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(cmd.Context(), at, func(st store.Reader) error {
				o := mount.Options{AllowOther: others, Log: func(format string, args ...any) {
					fmt.Fprintf(cmd.ErrOrStderr(), "mimeo-agent: "+format+"\n", args...)
				}}
				mnt, rev, err := startMount(cmd.Context(), st, args[0], args[1], o)
				if err != nil {
					return err
				}
				if err := sayMounted(cmd.OutOrStdout(), cmd.ErrOrStderr(), mnt, rev, asJSON); err != nil {
					return errors.Join(err, mnt.Close())
				}
				return mnt.Wait(cmd.Context())
			})
		},
	}
	f := cmd.Flags()
	at.flags(f, "where the image is kept: dir:PATH, s3://BUCKET/PREFIX, or https://ADDRESS:PORT")
	f.BoolVar(&others, "allow-other", false, "let other users of this machine look, too")
	f.BoolVar(&asJSON, "json", false, "print where everything is as JSON, on one line, when it is there")
	return cmd
}

// startMount mounts a revision.
func startMount(ctx context.Context, st store.Reader, ref, dir string, o mount.Options) (*mount.Mount, store.Revision, error) {
	rev, err := findRevision(ctx, st, ref)
	if err != nil {
		return nil, rev, err
	}
	m, err := st.Manifest(ctx, rev.ID)
	if err != nil {
		return nil, rev, fmt.Errorf("read the contents of %s: %w", rev, err)
	}
	o.Name = rev.String()
	mnt, err := mount.Start(ctx, st, m, dir, o)
	if err != nil {
		return nil, rev, mountError(rev.String(), err)
	}
	return mnt, rev, nil
}

// mountError adds what to do about it.
func mountError(what string, err error) error {
	e := &api.Error{Code: "refused", Message: fmt.Sprintf("mount %s: %v", what, err)}
	switch {
	case errors.Is(err, mount.ErrNoFuse):
		e.Hint = `load the kernel's module: "modprobe fuse"`
	case errors.Is(err, mount.ErrNoHelper):
		e.Hint = "install fuse3, or run it as root"
	case errors.Is(err, mount.ErrNotEmpty), errors.Is(err, mount.ErrNotFolder):
		e.Hint = "name a folder that is empty, or that is not there yet"
	case errors.Is(err, mount.ErrStale):
		e.Hint = `take it away first: "umount DIR", or "fusermount3 -u DIR"`
	default:
		return fmt.Errorf("mount %s: %w", what, err)
	}
	return e
}

// sayMounted tells where everything is, and how to end it.
func sayMounted(out, errw io.Writer, mnt *mount.Mount, rev store.Revision, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(mountedJSON{Image: rev.String(), ID: rev.ID.String(), Dir: mnt.Dir,
			Disk: filepath.Join(mnt.Dir, "disk.img"), Size: mnt.Size, Volumes: append([]mount.Shown{}, mnt.Shown...)})
	}
	fmt.Fprintf(out, "%s is at %s, read-only:\n", rev, mnt.Dir)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "  disk.img\t%d MiB\tthe whole disk\n", mnt.Size>>20)
	for _, v := range mnt.Shown {
		files := v.Files
		switch {
		case v.Problem != "":
			files = "files cannot be read: " + printable(v.Problem)
		case files != "":
			files = printable(files) + "/"
		}
		fmt.Fprintf(w, "  %s\t%d MiB\t%s\t%s\n", printable(v.Image), v.Size>>20, v.Type, files)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	how := "umount"
	if os.Geteuid() != 0 {
		how = "fusermount3 -u"
	}
	fmt.Fprintf(errw, "ctrl-C ends it, and so does: %s %s\n", how, mnt.Dir)
	return nil
}

// Patience with a management node that does not answer. Programs that read wait meanwhile.
const (
	mountGiveUp = 60 * time.Second
	mountStall  = 30 * time.Second
)

// withStore calls fn with a store in a folder or behind a management node.
func withStore(ctx context.Context, at storeAt, fn func(store.Reader) error) error {
	boundMemory()
	if !strings.HasPrefix(at.place, "https://") {
		st, err := openStore(ctx, at, false)
		if err != nil {
			return err
		}
		return errors.Join(fn(st), st.Close())
	}
	return withServer(ctx, at.place, func(st *httpstore.Client, _ *client.Client) error { return fn(st) })
}

// withServer calls fn with a management node and its store.
func withServer(ctx context.Context, place string, fn func(*httpstore.Client, *client.Client) error) error {
	a, err := accessTo(place)
	if err != nil {
		return err
	}
	// Whether it can be reached at all shows at once, and in the words of the command line.
	api := client.New(a)
	if err := api.Do(ctx, http.MethodGet, "/v1/status", nil, nil); err != nil {
		return err
	}
	h := a.HTTP()
	defer h.CloseIdleConnections()
	st, err := httpstore.NewClient(httpstore.Options{Base: a.Server, Token: a.Token, HTTP: h, GiveUp: mountGiveUp, Stall: mountStall})
	if err != nil {
		return err
	}
	return fn(st, api)
}

// accessTo finds the token and the pin for a management node.
func accessTo(server string) (client.Access, error) {
	server = strings.TrimRight(server, "/")
	if token := os.Getenv("MIMEO_TOKEN"); token != "" {
		return client.Access{Server: server, Pin: os.Getenv("MIMEO_PIN"), Token: token}, nil
	}
	a, err := client.Find()
	if err != nil {
		return a, err
	}
	if strings.TrimRight(a.Server, "/") != server {
		return a, &api.Error{Code: "refused", Message: fmt.Sprintf("the token that is kept here is for %s, not for %s", a.Server, server),
			Hint: "set MIMEO_TOKEN and MIMEO_PIN, or sign in there with \"mimeo login\""}
	}
	return a, nil
}
