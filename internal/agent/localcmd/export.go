package localcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/export"
	"mimeo/internal/imaging/foreign/clonezilla"
	"mimeo/internal/imaging/seal"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/view"
)

// exportFlags are what "mimeo-agent export" can be told.
type exportFlags struct {
	store    storeAt
	format   string
	compress bool
	force    bool
	noSeal   bool
	json     bool
}

// exported is what "mimeo-agent export --json" prints. Fields are only ever added.
type exported struct {
	Image   string  `json:"image"`
	Rev     int     `json:"rev"`
	ID      string  `json:"id"` // of the manifest
	Path    string  `json:"path"`
	Format  string  `json:"format"`
	Size    int64   `json:"size"`           // bytes of the disk
	Used    int64   `json:"used"`           // of these, not zero
	File    int64   `json:"file"`           // bytes that the file takes on its disk
	Seal    string  `json:"seal,omitempty"` // its seal, where the image is signed
	Seconds float64 `json:"seconds"`

	*clonezilla.Result // of a Clonezilla folder
}

// exportFormats are the formats by name, with the endings of files that mean them.
var exportFormats = map[string][]string{
	"raw": {".raw", ".img"}, "qcow2": {".qcow2"}, "vmdk": {".vmdk"}, "vhdx": {".vhdx"}, "clonezilla": {}, portable: {},
}

// ExportCmd returns "mimeo-agent export".
func ExportCmd() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export NAME[@REV] FILE --store PLACE",
		Short: "Write an image as a disk file for other programs",
		Long: `Writes a revision of an image (the newest where none is named) as a file that
virtual machines and other programs read. What is not in use is not stored in it.

  raw     the disk as it was, with holes; FILE - is standard output
  qcow2   for QEMU, libvirt, OpenStack; smaller with --compress
  vmdk    for VMware, VirtualBox; needs qemu-img, and for a while room for two files
  vhdx    for Hyper-V; likewise
  clonezilla  FILE is a folder that Clonezilla restores: put it into /home/partimag
  mimeo   FILE is a folder for "mimeo image import" elsewhere; it keeps the signatures

The format is that of FILE's ending (.raw or .img, .qcow2, .vmdk, .vhdx), unless
--format names it. FILE has its name only when it is whole and on the disk: every byte
was checked against the image's hashes. One that is there is refused without --force.

Of an image that is signed, FILE.seal keeps who signed it and what FILE must hold:
"mimeo-agent verify" checks the one with the other, on any machine. Folders have
none, and no --force: one that is there is never written over.

PLACE is dir:PATH, a store in a folder, or https://ADDRESS:PORT, that of a management
node, with MIMEO_TOKEN and MIMEO_PIN, or the file that "mimeo login" made.

Exit codes: 0 done; 1 failed; 2 the command line cannot be understood; 3 no such
image or store; 4 refused: the file is there, or there is no room; 130 interrupted.`,
		Example: `  mimeo-agent export rocky9 rocky9.qcow2 --compress --store dir:images
  mimeo-agent export rocky9@3 - --store dir:images | ssh n01 'dd of=/dev/sda bs=4M'
  mimeo-agent export rocky9 /home/partimag/rocky9 --format clonezilla --store dir:images`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error { return runExport(cmd, args[0], args[1], f) },
	}
	fl := cmd.Flags()
	f.store.flags(fl, "where the image is kept: dir:PATH, or https://ADDRESS:PORT")
	fl.StringVar(&f.format, "format", "", "raw, qcow2, vmdk, vhdx, clonezilla or mimeo; by default that of FILE's ending")
	fl.BoolVar(&f.compress, "compress", false, "compress what is in the file (qcow2)")
	fl.BoolVar(&f.force, "force", false, "write over a file that is there")
	fl.BoolVar(&f.noSeal, "no-seal", false, "write no FILE.seal")
	fl.BoolVar(&f.json, "json", false, "print what was done as JSON")
	return cmd
}

func runExport(cmd *cobra.Command, ref, path string, f exportFlags) error {
	format, err := exportFormat(path, f)
	if err != nil {
		return err
	}
	start := time.Now()
	return withStore(cmd.Context(), f.store, func(st store.Reader) error {
		ctx := cmd.Context()
		rev, err := findRevision(ctx, st, ref)
		if err != nil {
			return err
		}
		m, err := st.Manifest(ctx, rev.ID)
		if err != nil {
			return fmt.Errorf("read the contents of %s: %w", rev, err)
		}
		d, err := view.Open(ctx, st, m)
		if err != nil {
			return fmt.Errorf("read the contents of %s: %w", rev, err)
		}
		meter := newMeter(cmd.ErrOrStderr())
		defer meter.close()
		progress := func(done, total int64) { meter.show("exporting", done, total) }
		if path == "-" {
			return export.Stream(ctx, d, cmd.OutOrStdout(), progress)
		}
		out := exported{Image: rev.Image, Rev: rev.Rev, ID: rev.ID.String(), Path: path, Format: format,
			Size: d.Size(), Used: m.Content.Used - m.Content.Zero}
		if err := roomFor(path, out.Used, format, f); err != nil {
			return err
		}
		if format == "clonezilla" || format == portable {
			return exportFolder(cmd, st, d, rev, out, f.json, start, meter)
		}
		if !f.noSeal && len(rev.Signatures) > 0 {
			out.Seal = path + sealEnding
			if _, err := os.Lstat(out.Seal); err == nil && !f.force {
				return exportError(rev, fmt.Errorf("%s: %w", out.Seal, export.ErrExists))
			}
		}
		err = export.File(path, f.force, func(w *os.File) error {
			switch format {
			case "raw":
				return export.Raw(ctx, d, w, progress)
			case "qcow2":
				return export.Qcow2(ctx, d, w, f.compress, progress)
			}
			return convert(ctx, d, w, format, progress, func() { meter.show("converting", 0, 0) })
		})
		if err == nil && out.Seal != "" {
			err = export.File(out.Seal, f.force, func(w *os.File) error { return seal.Write(ctx, w, st, rev, m) })
		} else if err == nil && f.force {
			if err = os.Remove(path + sealEnding); errors.Is(err, fs.ErrNotExist) { // that of what was there
				err = nil
			}
		}
		if err != nil {
			return exportError(rev, err)
		}
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil {
			return err
		}
		out.File, out.Seconds = s.Blocks*512, time.Since(start).Seconds()
		meter.close()
		if f.json {
			return printJSON(cmd.OutOrStdout(), out)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is in %s (%s): a disk of %s in %s\n", rev, path, format, size(out.Size), size(out.File))
		return nil
	})
}

// exportFolder writes a folder.
func exportFolder(cmd *cobra.Command, st store.Reader, d *view.Disk, rev store.Revision, out exported, asJSON bool, start time.Time, meter *meter) error {
	progress := func(done, total int64) { meter.show("exporting", done, total) }
	var err error
	if out.Format == portable {
		err = exportPortable(cmd.Context(), st, rev, out.Path, progress)
	} else {
		err = export.Dir(out.Path, func(dir string) error {
			res, err := clonezilla.Write(cmd.Context(), d, dir, clonezilla.Options{Progress: progress})
			out.Result = &res
			return err
		})
	}
	switch {
	case errors.Is(err, clonezilla.ErrNoVolumes):
		return &api.Error{Code: "refused", Message: fmt.Sprintf("export %s: %v", rev, err), Hint: "export it as raw or qcow2"}
	case errors.Is(err, export.ErrExists):
		return &api.Error{Code: "refused", Message: err.Error(), Hint: "name another folder: one that is there is never written over"}
	case err != nil:
		return exportError(rev, err)
	}
	err = filepath.WalkDir(out.Path, func(_ string, f fs.DirEntry, err error) error {
		if err != nil || f.IsDir() {
			return err
		}
		i, err := f.Info()
		if err == nil {
			out.File += i.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	out.Seconds = time.Since(start).Seconds()
	meter.close()
	if asJSON {
		return printJSON(cmd.OutOrStdout(), out)
	}
	if out.Result != nil {
		for _, n := range out.Notes {
			fmt.Fprintf(cmd.ErrOrStderr(), "mimeo-agent: %s\n", n)
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is in %s (%s): a disk of %s in %s\n", rev, out.Path, out.Format, size(out.Size), size(out.File))
	return nil
}

func exportError(rev store.Revision, err error) error {
	if errors.Is(err, export.ErrExists) {
		return &api.Error{Code: "refused", Message: err.Error(), Hint: "name another file, or say --force to write over it"}
	}
	return fmt.Errorf("export %s: %w", rev, err)
}

// formatOf is the format that a file's ending means, or "".
func formatOf(path string) string {
	for name, endings := range exportFormats {
		if slices.Contains(endings, strings.ToLower(filepath.Ext(path))) {
			return name
		}
	}
	return ""
}

// exportFormat is the format that is wanted.
func exportFormat(path string, f exportFlags) (string, error) {
	format := f.format
	if format == "" && path == "-" {
		format = "raw"
	}
	if format == "" {
		format = formatOf(path)
	}
	switch {
	case format == "":
		e := badUsage("%s: which format?", path)
		e.Hint = "say --format raw, qcow2, vmdk, vhdx, clonezilla or mimeo, or give the file such an ending"
		return "", e
	case exportFormats[format] == nil:
		return "", badUsage("--format %s: want raw, qcow2, vmdk, vhdx, clonezilla or mimeo", format)
	case f.compress && format != "qcow2":
		return "", badUsage("--compress is for qcow2, not for %s", format)
	case (format == "clonezilla" || format == portable) && f.force:
		e := badUsage("--force: a folder is never written over")
		e.Hint = "take it away first, or name another"
		return "", e
	case path == "-" && (format != "raw" || f.json):
		return "", badUsage("standard output takes a raw disk, and nothing else")
	}
	if format == "vmdk" || format == "vhdx" {
		if _, err := exec.LookPath("qemu-img"); err != nil {
			return "", &api.Error{Code: "refused", Message: format + " files are made by qemu-img, and it is not here", Hint: "install the package qemu-utils, or export qcow2"}
		}
	}
	return format, nil
}

// roomFor refuses where there is no room for a file, as far as that can be told before.
func roomFor(path string, used int64, format string, f exportFlags) error {
	need := used
	switch {
	case f.compress, format == "clonezilla", format == portable:
		need = used / 4
	case format == "vmdk" || format == "vhdx":
		need = 2 * used
	}
	var s unix.Statfs_t
	dir := filepath.Dir(path)
	if err := unix.Statfs(dir, &s); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no folder %s", dir), Hint: "make it first"}
		}
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(s.Bavail) * s.Bsize; free < need {
		return &api.Error{Code: "refused", Message: fmt.Sprintf("%s has %s of room, and the file will take %s", dir, size(free), size(need)), Hint: "name a file on another disk, or try qcow2 with --compress"}
	}
	return nil
}

// convert has qemu-img make a file of a format from a qcow2 file beside it.
func convert(ctx context.Context, d *view.Disk, w *os.File, format string, progress export.Progress, turned func()) error {
	return withScratch(w.Name()+".qcow2", func(scratch *os.File) error {
		if err := export.Qcow2(ctx, d, scratch, false, progress); err != nil {
			return err
		}
		turned()
		options := map[string]string{"vmdk": "subformat=monolithicSparse", "vhdx": "subformat=dynamic"}[format]
		var said bytes.Buffer
		c := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", format, "-o", options, scratch.Name(), w.Name())
		c.Stderr = &said
		if err := c.Run(); err != nil {
			return fmt.Errorf("qemu-img convert: %w: %s", err, bytes.TrimSpace(said.Bytes()))
		}
		return nil
	})
}

// withScratch calls fn with a file that is gone afterwards.
func withScratch(path string, fn func(f *os.File) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fn(f), f.Close(), os.Remove(path))
}
