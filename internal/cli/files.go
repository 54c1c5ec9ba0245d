package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

// query is the path with the parameters that are set.
func query(path string, partition int, params map[string]string) string {
	v := url.Values{}
	for k, p := range params {
		if p != "" {
			v.Set(k, p)
		}
	}
	if partition > 0 {
		v.Set("partition", strconv.Itoa(partition))
	}
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}

const partitionHelp = "number of the `PARTITION` (default that of the operating system)"

func imageFilesCmd(t *terminal) *cobra.Command {
	var partition int
	var recursive bool
	c := &cobra.Command{
		Use: "files NAME[@REV] [PATH]", Short: "List the files of an image, without deploying it", Aliases: []string{"ls-files"},
		Long: `Lists a file of a captured disk, or what a directory holds, straight from the
store. Filesystems whose files can be read: ext2, ext3, ext4, XFS, btrfs, NTFS, FAT, exFAT, F2FS.

With --json, one object a line; the last has "finished": true.`,
		Example: `  mimeo image files rocky9 /etc
  mimeo image files rocky9@2 / --recursive --json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			params := map[string]string{"path": "/"}
			if len(args) > 1 {
				params["path"] = args[1]
			}
			if recursive {
				params["recursive"] = "1"
			}
			c, err := connect()
			if err != nil {
				return err
			}
			out := bufio.NewWriter(t.out)
			defer out.Flush()
			var last api.ImageFiles
			problems := 0
			err = c.Stream(cmd.Context(), http.MethodGet, query(imagePath(name, rev)+"/files", partition, params), nil, func(data []byte) error {
				last = api.ImageFiles{}
				if err := json.Unmarshal(data, &last); err != nil {
					return err
				}
				switch {
				case t.json:
					fmt.Fprintf(out, "%s\n", data)
				case last.File != nil:
					fmt.Fprintln(out, fileLine(last.File))
				case last.Problem != "":
					problems++
					fmt.Fprintln(t.err, "mimeo: cannot be read:", printable(last.Problem))
				}
				return nil
			})
			if err == nil && last.Error != nil {
				err = last.Error
			}
			if err == nil && !last.Finished {
				err = &api.Error{Code: "failed", Message: "the listing broke off", Hint: "try again"}
			}
			if err == nil && problems > 0 {
				err = &api.Error{Code: "damaged", Message: fmt.Sprintf("%d files or directories cannot be read: the filesystem was damaged when it was captured", problems)}
			}
			return err
		},
	}
	c.Flags().IntVar(&partition, "partition", 0, partitionHelp)
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "with all below")
	return c
}

func imageCatCmd(t *terminal) *cobra.Command {
	var partition int
	c := &cobra.Command{
		Use: "cat NAME[@REV] PATH", Short: "Print a file of an image, without deploying it",
		Example: `  mimeo image cat rocky9 /etc/os-release
  mimeo image cat rocky9@2 /boot/vmlinuz > vmlinuz`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return c.Download(cmd.Context(), query(imagePath(name, rev)+"/content", partition, map[string]string{"path": args[1]}), t.out)
		},
	}
	c.Flags().IntVar(&partition, "partition", 0, partitionHelp)
	return c
}

func imageDiffCmd(t *terminal) *cobra.Command {
	var partition int
	c := &cobra.Command{
		Use: "diff NAME[@REV] NAME[@REV]", Short: "Tell which files differ between two images, or two revisions",
		Long: `Tells which files came (+), went (-), have another content (M), or another mode
or owner alone (c), and how many bytes of their content differ, in blocks of 4 KiB.
Times do not count. Files of the same chunks are not read.`,
		Example: `  mimeo image diff rocky9@1 rocky9@2`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			with, withRev, err := t.splitImage(cmd, args[1])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			out := bufio.NewWriter(t.out)
			defer out.Flush()
			signs := map[string]string{"added": "+", "removed": "-", "modified": "M", "changed": "c"}
			var last api.ImageDiff
			path := query(imagePath(name, rev)+"/diff", partition, map[string]string{"with": fmt.Sprintf("%s@%d", with, withRev)})
			err = c.Stream(cmd.Context(), http.MethodGet, path, nil, func(data []byte) error {
				last = api.ImageDiff{}
				if err := json.Unmarshal(data, &last); err != nil {
					return err
				}
				if t.json {
					fmt.Fprintf(out, "%s\n", data)
				} else if ch := last.Change; ch != nil {
					fmt.Fprintf(out, "%s %10s  %s\n", signs[ch.Kind], size(ch.Bytes), printable(ch.Path))
				}
				return nil
			})
			switch {
			case err != nil:
				return err
			case last.Error != nil:
				return last.Error
			case !last.Finished:
				return &api.Error{Code: "failed", Message: "the comparison broke off", Hint: "try again"}
			case t.json:
				return nil
			}
			var words []string
			for _, k := range []string{"added", "removed", "modified", "changed"} {
				if n := last.Counts[k]; n > 0 {
					words = append(words, fmt.Sprintf("%d %s (%s)", n, k, size(last.Bytes[k])))
				}
			}
			if len(words) == 0 {
				words = []string{"no files differ"}
			}
			fmt.Fprintf(out, "%s@%d to %s@%d: %s\n", name, rev, with, withRev, strings.Join(words, ", "))
			return nil
		},
	}
	c.Flags().IntVar(&partition, "partition", 0, partitionHelp)
	return c
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

// printable is s, quoted where a terminal would not show it as it is.
func printable(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}
