package localcmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/manifest"
)

// mapped is what "mimeo-agent map --json" prints. docs/formats/map-json.md is its format. Fields are only ever added.
type mapped struct {
	Path      string         `json:"path"`
	Disk      manifest.Disk  `json:"disk"`
	Table     manifest.Table `json:"table"`
	Volumes   []mappedVolume `json:"volumes"`
	Outside   pairs          `json:"outside"`
	Used      pairs          `json:"used"`
	UsedBytes int64          `json:"used_bytes"`
	Notes     []string       `json:"notes"`
}

type mappedVolume struct {
	manifest.Volume
	UsedBytes int64    `json:"used_bytes"`
	Used      pairs    `json:"used"` // goes before Volume.Used, which is used_bytes here
	Notes     []string `json:"notes"`
}

// pairs is a list of extents as [offset, length].
type pairs extent.List

func (p pairs) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2+24*len(p))
	b = append(b, '[')
	for i, e := range p {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		b = strconv.AppendInt(b, e.Off, 10)
		b = append(b, ',')
		b = strconv.AppendInt(b, e.Len, 10)
		b = append(b, ']')
	}
	return append(b, ']'), nil
}

// MapCmd returns "mimeo-agent map".
func MapCmd() *cobra.Command {
	var asJSON bool
	var sector int
	cmd := &cobra.Command{
		Use:   "map DISK",
		Short: "Show what is on a disk, and what of it a capture would read",
		Long: `Shows the partition table and the volumes of a disk or image file: type, UUID,
label, block size, the bytes in use, and by which method a capture takes them:

  used   the blocks in use, as the filesystem's own map has them
  whole  every byte; the reason stands beside it
  head   the header only, as with swap

With --json, also the used extents as [offset, length] in bytes of the disk: all
that a capture would read, with partition tables and boot code. The disk is only
read, and may be in use; its map is then a moment's.

Exit codes: 0 done; 1 failed; 2 the command line cannot be understood; 3 no such
disk; 4 refused; 130 interrupted.`,
		Example: `  mimeo-agent map /dev/sda
  mimeo-agent map disk.img --json | jq '.volumes[] | {partition, type, used_bytes}'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMap(cmd.OutOrStdout(), cmd.ErrOrStderr(), args[0], disk.Options{SectorSize: sector}, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, whose fields stay as they are")
	cmd.Flags().IntVar(&sector, "sector-size", 0, "bytes of a sector of an image file (default what its GPT was made for, or 512)")
	return cmd
}

func runMap(out, errw io.Writer, path string, o disk.Options, asJSON bool) error {
	if s := o.SectorSize; s != 0 && (s < 512 || s > 4096 || s&(s-1) != 0) {
		return badUsage("--sector-size %d: want 512, 1024, 2048 or 4096", s)
	}
	boundMemory()
	d, err := disk.Open(path, o)
	if err != nil {
		return openError(err)
	}
	defer d.Close()
	var use *disk.InUseError
	if err := disk.InUse(path); errors.As(err, &use) {
		fmt.Fprintf(errw, "mimeo-agent: note: %v: what is shown may change at any time\n", use)
	}
	l, err := layout.Plan(d)
	if err != nil {
		return fmt.Errorf("look at what %s holds: %w", path, err)
	}
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return enc.Encode(describe(path, l))
	}
	return printMap(out, path, l)
}

func describe(path string, l *layout.Layout) mapped {
	m := mapped{
		Path: path, Disk: l.Disk, Table: l.Table.Table, Outside: pairs(l.Outside), Used: pairs(l.Used), UsedBytes: l.Used.Bytes(),
		Volumes: make([]mappedVolume, 0, len(l.Volumes)), Notes: append([]string{}, l.Notes...),
	}
	for _, v := range l.Volumes {
		m.Volumes = append(m.Volumes, mappedVolume{Volume: v.Volume, UsedBytes: v.Volume.Used, Used: pairs(v.Extents), Notes: append([]string{}, v.Notes...)})
	}
	return m
}

// printMap writes for people.
func printMap(w io.Writer, path string, l *layout.Layout) error {
	what := "no partition table"
	switch l.Table.Kind {
	case "gpt":
		what = "GPT " + l.Table.ID
	case "mbr":
		what = "MBR " + l.Table.ID
	}
	fmt.Fprintf(w, "%s: %s, sectors of %d bytes, %s\n", path, size(l.Disk.Size), l.Disk.SectorSize, what)
	if id := strings.TrimSpace(strings.Join([]string{l.Disk.Model, l.Disk.Serial, l.Disk.WWN}, " ")); id != "" {
		fmt.Fprintf(w, "%s\n", strings.Join(strings.Fields(id), " "))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PART\tSTART\tSIZE\tPARTITION\tTYPE\tBLOCK\tUSED\tMETHOD\tLABEL\tUUID")
	volumes := map[int]layout.Volume{}
	for _, v := range l.Volumes {
		volumes[v.Partition] = v
	}
	row := func(part string, off, n int64, kind string, v layout.Volume, ok bool) {
		if !ok {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t-\t-\t-\t-\t-\t-\n", part, off, size(n), dash(kind))
			return
		}
		block := ""
		if v.BlockSize > 0 {
			block = fmt.Sprint(v.BlockSize)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", part, off, size(n), dash(kind), v.Type, dash(block), size(v.Volume.Used),
			v.Method, dash(printable(v.Label)), dash(v.UUID))
	}
	for _, p := range l.Table.Partitions {
		v, ok := volumes[p.Number]
		row(fmt.Sprint(p.Number), p.Off, p.Len, partitionKind(p), v, ok)
	}
	if v, ok := volumes[0]; ok {
		row("-", v.Off, v.Len, "", v, true)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range l.Volumes {
		if v.Reason != "" {
			where := "the disk"
			if v.Partition > 0 {
				where = fmt.Sprintf("partition %d", v.Partition)
			}
			fmt.Fprintf(w, "%s is taken whole: %s\n", where, v.Reason)
		}
	}
	for _, n := range l.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	_, err := fmt.Fprintf(w, "a capture reads %s of %s\n", size(l.Used.Bytes()), size(l.Disk.Size))
	return err
}

// partitionKind names the usual kinds of partitions; others by their number.
func partitionKind(p manifest.Partition) string {
	names := map[string]string{
		"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system", "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
		"0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
		"e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM", "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
		"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root", "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root",
		"933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home", "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
		"9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PReP boot", "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
		"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft data", "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
		"05": "extended", "0f": "extended", "85": "extended", "07": "07 NTFS/exFAT", "0b": "0b FAT32", "0c": "0c FAT32", "41": "41 PReP boot",
		"82": "82 Linux swap", "83": "83 Linux", "8e": "8e Linux LVM", "ef": "ef EFI system", "fd": "fd Linux RAID",
	}
	name, ok := names[p.Type]
	if !ok {
		name = p.Type
	}
	if p.Bootable {
		name += " *"
	}
	return name
}

// printable keeps control characters of a label away from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
