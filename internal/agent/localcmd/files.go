package localcmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/browse"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/store/dir"
)

// FilesCmd returns "mimeo-agent files".
func FilesCmd() *cobra.Command {
	var at storeAt
	var partition int
	var recursive, asJSON bool
	cmd := &cobra.Command{
		Use:   "files NAME[@REV] [PATH] --store dir:PATH",
		Short: "List the files of an image",
		Long: `Lists the files of a captured disk, straight from the store: a file, or what a
directory holds. Without --partition it is the partition of the operating system,
else the largest whose files can be read (ext2, ext3, ext4, XFS, btrfs, NTFS, FAT,
exFAT, F2FS).

With --json, one object a line; the last has "finished": true.`,
		Example: `  mimeo-agent files rocky9 /etc --store dir:images
  mimeo-agent files rocky9@2 / --recursive --json --store dir:images`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "/"
			if len(args) > 1 {
				name = args[1]
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			return withVolume(cmd.Context(), at, args[0], partition, func(v *browse.Volume) error {
				return errors.Join(listFiles(out, v, name, recursive, asJSON), out.Flush())
			})
		},
	}
	f := cmd.Flags()
	at.flags(f, "where the image is kept: dir:PATH or s3://BUCKET/PREFIX")
	f.IntVar(&partition, "partition", 0, "number of the partition")
	f.BoolVarP(&recursive, "recursive", "r", false, "with all below")
	f.BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

// CatCmd returns "mimeo-agent cat".
func CatCmd() *cobra.Command {
	var at storeAt
	var partition int
	cmd := &cobra.Command{
		Use:     "cat NAME[@REV] PATH --store dir:PATH",
		Short:   "Print a file of an image",
		Long:    "Prints the content of a file of a captured disk, straight from the store. Symbolic links are followed.",
		Example: `  mimeo-agent cat rocky9 /etc/os-release --store dir:images`,
		Args:    exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withVolume(cmd.Context(), at, args[0], partition, func(v *browse.Volume) error {
				f, err := tree.Lookup(v, args[1], true)
				if err != nil {
					return fileError(err)
				}
				name := "/" + strings.Trim(args[1], "/")
				if f.Type() != tree.Regular {
					return badUsage("%s is no regular file", name)
				}
				r, err := v.Open(f.Inode)
				if err != nil {
					return fmt.Errorf("open %s: %w", name, err)
				}
				if _, err := io.CopyBuffer(cmd.OutOrStdout(), io.NewSectionReader(r, 0, f.Size), make([]byte, 1<<20)); err != nil {
					return fmt.Errorf("read %s: %w", name, err)
				}
				return nil
			})
		},
	}
	at.flags(cmd.Flags(), "where the image is kept: dir:PATH or s3://BUCKET/PREFIX")
	cmd.Flags().IntVar(&partition, "partition", 0, "number of the partition")
	return cmd
}

// DiffCmd returns "mimeo-agent diff".
func DiffCmd() *cobra.Command {
	var at storeAt
	var partition int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A[@REV] B[@REV] --store dir:PATH",
		Short: "Tell which files differ between two images",
		Long: `Tells which files were added, removed or modified from A to B, and by how many
bytes, in blocks of 4 KiB. Files whose mode or owner alone differ are "changed".
Files of the same chunks are not read. Times do not count.

With --json, one object a line; the last has "finished": true.`,
		Example: `  mimeo-agent diff rocky9@1 rocky9@2 --store dir:images`,
		Args:    exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			return withVolume(cmd.Context(), at, args[0], partition, func(a *browse.Volume) error {
				return withVolume(cmd.Context(), at, args[1], partition, func(b *browse.Volume) error {
					return errors.Join(diffFiles(out, a, b, asJSON), out.Flush())
				})
			})
		},
	}
	f := cmd.Flags()
	at.flags(f, "where the images are kept: dir:PATH or s3://BUCKET/PREFIX")
	f.IntVar(&partition, "partition", 0, "number of the partition, of both")
	f.BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

// withVolume calls fn with a volume of a revision.
func withVolume(ctx context.Context, at storeAt, ref string, partition int, fn func(*browse.Volume) error) (err error) {
	boundMemory()
	var st *dir.Store
	if st, err = openStore(ctx, at, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	rev, err := findRevision(ctx, st, ref)
	if err != nil {
		return err
	}
	m, err := st.Manifest(ctx, rev.ID)
	if err != nil {
		return fmt.Errorf("read the contents of %s: %w", rev, err)
	}
	image, err := browse.Open(ctx, st, m)
	if err != nil {
		return fmt.Errorf("open %s: %w", rev, err)
	}
	v, err := image.Volume(partition)
	if none := (*browse.VolumeError)(nil); errors.As(err, &none) {
		return &api.Error{Code: "not_found", Message: fmt.Sprintf("%s: %v", rev, none), Hint: "name another with --partition"}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rev, err)
	}
	return fn(v)
}

func fileError(err error) error {
	if errors.Is(err, tree.ErrNotFound) {
		return &api.Error{Code: "not_found", Message: err.Error()}
	}
	return err
}

var fileTypes = map[uint32]string{
	tree.Regular: "file", tree.Dir: "dir", tree.Link: "link", tree.Char: "char", tree.Block: "block", tree.Pipe: "pipe", tree.Socket: "socket",
}

// imageFile is f as it goes over the wire.
func imageFile(name string, f tree.File) *api.ImageFile {
	out := &api.ImageFile{
		Path: strings.ToValidUTF8(name, "\ufffd"), Type: fileTypes[f.Type()], Mode: fmt.Sprintf("%04o", f.Mode&^tree.TypeMask),
		UID: f.UID, GID: f.GID, Size: f.Size, Modified: f.Modified, Target: strings.ToValidUTF8(f.Target, "\ufffd"),
	}
	if out.Type == "" {
		out.Type = "unknown"
	}
	if !utf8.ValidString(name) {
		out.Raw = []byte(name)
	}
	return out
}

func listFiles(w io.Writer, v *browse.Volume, name string, recursive, asJSON bool) error {
	f, err := tree.Lookup(v, name, true)
	if err != nil {
		return fileError(err)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	end := api.ImageFiles{Partition: v.Partition, Finished: true}
	show := func(name string, f tree.File, err error) error {
		switch {
		case err != nil && asJSON:
			return enc.Encode(api.ImageFiles{Problem: err.Error()})
		case err != nil:
			_, err = fmt.Fprintf(w, "?  %v\n", err)
			return err
		}
		end.Count++
		if f.Type() == tree.Regular {
			end.Bytes += f.Size
		}
		if asJSON {
			return enc.Encode(api.ImageFiles{File: imageFile(name, f)})
		}
		_, err = fmt.Fprintln(w, fileLine(imageFile(name, f)))
		return err
	}
	top := strings.TrimRight("/"+strings.Trim(name, "/"), "/")
	switch {
	case !f.IsDir():
		err = show(orSlash(top), f, nil)
	case recursive:
		err = tree.Walk(v, orSlash(top), f, show)
	default:
		err = tree.Walk(v, orSlash(top), f, func(name string, g tree.File, err error) error {
			if g.Inode == f.Inode && name == orSlash(top) {
				if err != nil {
					return show(name, g, err)
				}
				return nil
			}
			if err := show(name, g, err); err != nil || !g.IsDir() {
				return err
			}
			return tree.SkipDir
		})
	}
	if err != nil || !asJSON {
		return err
	}
	return enc.Encode(end)
}

func orSlash(s string) string {
	if s == "" {
		return "/"
	}
	return s
}

// fileLine is a file as "ls -l" shows it.
func fileLine(f *api.ImageFile) string {
	target := ""
	if f.Type == "link" {
		target = " -> " + printable(f.Target)
	}
	letter := map[string]string{"dir": "d", "link": "l", "char": "c", "block": "b", "pipe": "p", "socket": "s"}[f.Type]
	if letter == "" {
		letter = "-"
	}
	return fmt.Sprintf("%s%s %5d %5d %12d %s %s%s", letter, f.Mode, f.UID, f.GID, f.Size, f.Modified.Format(time.DateTime), printable(f.Path), target)
}

func diffFiles(w io.Writer, a, b *browse.Volume, asJSON bool) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	end := api.ImageDiff{Counts: map[string]int64{}, Bytes: map[string]int64{}, Finished: true}
	signs := map[string]string{browse.Added: "+", browse.Removed: "-", browse.Modified: "M", browse.Changed: "c"}
	err := browse.Diff(a, b, func(c browse.Change) error {
		end.Counts[c.Kind]++
		end.Bytes[c.Kind] += c.Bytes
		if !asJSON {
			_, err := fmt.Fprintf(w, "%s %12d %s\n", signs[c.Kind], c.Bytes, printable(c.Path))
			return err
		}
		out := &api.ImageChange{Path: strings.ToValidUTF8(c.Path, "\ufffd"), Kind: c.Kind, Bytes: c.Bytes}
		if c.Kind != browse.Added {
			out.Old = imageFile(c.Path, c.Old)
		}
		if c.Kind != browse.Removed {
			out.New = imageFile(c.Path, c.New)
		}
		return enc.Encode(api.ImageDiff{Change: out})
	})
	if err != nil {
		return err
	}
	if asJSON {
		return enc.Encode(end)
	}
	for _, k := range []string{browse.Added, browse.Removed, browse.Modified, browse.Changed} {
		if end.Counts[k] > 0 {
			fmt.Fprintf(w, "%s: %d files, %d bytes\n", k, end.Counts[k], end.Bytes[k])
		}
	}
	if len(end.Counts) == 0 {
		fmt.Fprintln(w, "no files differ")
	}
	return nil
}
