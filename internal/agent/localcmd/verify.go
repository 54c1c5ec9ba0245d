package localcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/seal"
)

// sealEnding is what the name of a seal has more than that of its disk file.
const sealEnding = ".seal"

// verified is what "mimeo-agent verify --json" prints. Fields are only ever added.
type verified struct {
	Image   string   `json:"image"`
	Rev     int      `json:"rev"`
	ID      string   `json:"id"` // of the manifest
	Path    string   `json:"path"`
	Seal    string   `json:"seal"`
	Size    int64    `json:"size"`   // bytes of the disk
	Signed  []string `json:"signed"` // keys that are trusted and have signed it
	Seconds float64  `json:"seconds"`
}

// VerifyCmd returns "mimeo-agent verify".
func VerifyCmd() *cobra.Command {
	var sealFile, trust, format string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE --trust KEYFILE",
		Short: "Check that an exported disk file is what somebody signed",
		Long: `Reads a disk file that was exported, or a disk that it was written to, and checks every
byte of it against its seal, and the seal's signature against the keys in KEYFILE (one
a line, as "mimeo key show" prints it on the management node that made the image). It
needs neither that node nor its store.

The seal is FILE.seal, unless --seal names it. What the image does not use must be zero;
on a disk, which may be larger, it may be anything. Files other than raw ones are read by
qemu-img, and take as much room beside FILE as the disk has data.

Exit codes: 0 it is what was signed; 1 it is not, or cannot be read; 2 the command line
cannot be understood; 3 there is no such file; 4 nobody who is trusted signed it;
130 interrupted.`,
		Example: `  mimeo-agent verify rocky9.raw --trust site-a.key
  mimeo-agent verify rocky9.qcow2 --trust site-a.key
  mimeo-agent verify /dev/sda --seal rocky9.raw.seal --trust site-a.key`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if trust == "" {
				return badUsage("--trust KEYFILE is missing: whose signature counts?")
			}
			if sealFile == "" {
				sealFile = args[0] + sealEnding
			}
			return runVerify(cmd, args[0], sealFile, trust, format, asJSON)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&trust, "trust", "", "the keys that count: a `FILE` with one a line")
	fl.StringVar(&sealFile, "seal", "", "the seal (default FILE.seal)")
	fl.StringVar(&format, "format", "", "raw, qcow2, vmdk or vhdx; by default that of FILE's ending, or raw")
	fl.BoolVar(&asJSON, "json", false, "print JSON, whose fields stay as they are")
	return cmd
}

func runVerify(cmd *cobra.Command, path, sealFile, trust, format string, asJSON bool) error {
	ctx, start := cmd.Context(), time.Now()
	boundMemory()
	if format == "" {
		if format = formatOf(path); format == "" {
			format = "raw"
		}
	} else if exportFormats[format] == nil {
		return badUsage("--format %s: want raw, qcow2, vmdk or vhdx", format)
	}
	keys, err := readKeys(trust)
	if err != nil {
		return err
	}
	sf, n, err := openSealed(sealFile)
	if err != nil {
		return err
	}
	defer sf.Close()
	s, err := seal.Open(sf, n)
	if err != nil {
		return &api.Error{Code: "failed", Message: fmt.Sprintf("%s: %v", sealFile, err)}
	}
	if err := keys.Check(s.Revision); err != nil {
		return &api.Error{Code: "refused", Message: fmt.Sprintf("%s: %v", sealFile, err), Hint: "if you know whose image it is, add the key to " + trust}
	}
	out := verified{Image: s.Revision.Image, Rev: s.Revision.Rev, ID: s.Revision.ID.String(), Path: path, Seal: sealFile, Size: s.Manifest.Disk.Size}
	for _, f := range keys.Look(s.Revision) {
		if f.State == "trusted" {
			out.Signed = append(out.Signed, f.Key)
		}
	}
	bar := newMeter(cmd.ErrOrStderr())
	defer bar.close()
	err = withRaw(ctx, path, format, func(d io.ReaderAt, size int64, rest bool) error {
		return s.Check(ctx, d, size, rest, func(done, total int64) { bar.show("verifying", done, total) })
	})
	bar.close()
	var other *seal.OtherError
	if errors.As(err, &other) {
		return &api.Error{Code: "failed", Message: fmt.Sprintf("%s is not %s as it was signed: %v", path, s.Revision, other), Hint: "export it again, or fetch it again from where it came"}
	} else if err != nil {
		return err
	}
	out.Seconds = time.Since(start).Seconds()
	if asJSON {
		return printJSON(cmd.OutOrStdout(), out)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is %s as it was signed: every byte of %s checked\n", path, s.Revision, size(out.Size))
	return nil
}

// openSealed opens a file or a block device, and tells its size.
func openSealed(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, &api.Error{Code: "not_found", Message: err.Error(), Hint: "\"mimeo-agent export\" writes FILE.seal beside FILE where the image is signed; --seal names another"}
	} else if err != nil {
		return nil, 0, err
	}
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, n, nil
}

// withRaw calls fn with a disk as raw bytes. rest says that it holds nothing but the image.
func withRaw(ctx context.Context, path, format string, fn func(d io.ReaderAt, size int64, rest bool) error) error {
	f, n, err := openSealed(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if format == "raw" {
		return fn(f, n, st.Mode().IsRegular())
	}
	return withScratch(path+".raw.part", func(raw *os.File) error {
		var said bytes.Buffer
		c := exec.CommandContext(ctx, "qemu-img", "convert", "-f", format, "-O", "raw", path, raw.Name())
		c.Stderr = &said
		if err := c.Run(); errors.Is(err, exec.ErrNotFound) {
			return &api.Error{Code: "refused", Message: format + " files are read by qemu-img, and it is not here", Hint: "install the package qemu-utils"}
		} else if err != nil {
			return fmt.Errorf("qemu-img convert: %w: %s", err, bytes.TrimSpace(said.Bytes()))
		}
		n, err := raw.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		return fn(raw, n, true)
	})
}
