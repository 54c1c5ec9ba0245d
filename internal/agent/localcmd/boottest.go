package localcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/agent/trial"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/mount"
	"mimeo/internal/imaging/store"
)

// BootTestCmd returns "mimeo-agent boot-test".
func BootTestCmd() *cobra.Command {
	var at storeAt
	var expect, work string
	var asJSON, console bool
	o := trial.Options{CPUs: 2}
	cmd := &cobra.Command{
		Use:   "boot-test NAME[@REV] --store PLACE",
		Short: "Boot an image in a virtual machine, to see whether it comes up",
		Long: `Boots a captured disk in QEMU, straight from the store, and waits for a login prompt
on its serial console, or for what --expect says. What the system writes is thrown away,
it reaches no network, and nothing of it runs any more at the end.

The image must show that it is up on its first serial port (on Linux: console=ttyS0).
Of one that does not, --screenshot shows the screen at the end of --timeout. The disk is
an AHCI one, of 4096-byte sectors NVMe; what was captured from a virtual machine may need
--bus virtio. Images of amd64 only.

PLACE is dir:PATH, a store in a folder, s3://BUCKET/PREFIX, or https://ADDRESS:PORT ("mimeo-agent mount
--help" says more). It needs root or fusermount3, and qemu-system-x86; for --firmware
uefi also ovmf.

Exit codes: 0 it came up; 1 it did not, or the test failed; 2 the command line cannot
be understood; 3 no such image or store; 4 this system cannot do it; 130 interrupted.`,
		Example: `  mimeo-agent boot-test rocky9 --store dir:images --screenshot rocky9.png
  mimeo-agent boot-test rocky9@2 --store dir:images --expect 'Reached target.*Multi-User' --timeout 10m`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if expect != "" {
				if o.Expect, err = regexp.Compile(expect); err != nil {
					return badUsage("--expect: %v", err)
				}
			}
			switch {
			case !slices.Contains([]string{"", "bios", "uefi"}, o.Firmware):
				return badUsage("--firmware %s: want bios or uefi", o.Firmware)
			case !slices.Contains(api.BootTestBuses, o.Bus):
				return badUsage("--bus %s: want one of %s", o.Bus, strings.Join(api.BootTestBuses, ", "))
			case o.Timeout < time.Second || o.Timeout > api.BootTestMaxTimeout:
				return badUsage("--timeout %v: want 1s to %v", o.Timeout, api.BootTestMaxTimeout)
			case o.Memory < 64 || o.Memory > api.BootTestMaxMemory:
				return badUsage("--memory %d: want 64 to %d MiB", o.Memory, api.BootTestMaxMemory)
			}
			say := func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "mimeo-agent: "+format+"\n", args...) }
			o.Log = say
			if console {
				o.Console = cmd.ErrOrStderr()
			}
			return withStore(cmd.Context(), at, func(st store.Reader) error {
				t, err := bootTest(cmd.Context(), st, args[0], work, o, say)
				if err != nil {
					return err
				}
				return sayBootTest(cmd.OutOrStdout(), t, o.Screen, asJSON)
			})
		},
	}
	f := cmd.Flags()
	at.flags(f, "where the image is kept: dir:PATH, s3://BUCKET/PREFIX, or https://ADDRESS:PORT")
	f.StringVar(&o.Firmware, "firmware", "", "bios or uefi (default: what the image is for)")
	f.StringVar(&o.Bus, "bus", api.BootTestBuses[0], "how the disk is attached: ahci, nvme or virtio")
	f.StringVar(&expect, "expect", "", "what it must say on its serial console, a regular `EXPRESSION` (default: a login prompt)")
	f.DurationVar(&o.Timeout, "timeout", api.BootTestTimeout, "how long it has for that")
	f.IntVar(&o.Memory, "memory", api.BootTestMemory, "memory of the machine in `MIB`")
	f.StringVar(&o.Screen, "screenshot", "", "make a picture of its screen at the end, a PNG `FILE`")
	f.StringVar(&o.Accel, "accel", "", "kvm or tcg (default: kvm where it works)")
	f.StringVar(&work, "work", "/var/tmp", "`FOLDER` for what it writes meanwhile")
	f.BoolVar(&console, "console", false, "show what it says while it boots")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// bootTest mounts a revision and boots it.
func bootTest(ctx context.Context, st store.Reader, ref, work string, o trial.Options, say func(string, ...any)) (t api.BootTest, err error) {
	rev, err := findRevision(ctx, st, ref)
	if err != nil {
		return t, err
	}
	m, err := st.Manifest(ctx, rev.ID)
	if err != nil {
		return t, fmt.Errorf("read the contents of %s: %w", rev, err)
	}
	if m.Source.Arch != "amd64" && m.Source.Arch != "" {
		return t, &api.Error{Code: "refused", Message: fmt.Sprintf("%s is of %s: only images of amd64 can be tried", rev, m.Source.Arch)}
	}
	if o.Firmware == "" {
		o.Firmware = firmwareOf(m)
	}
	if o.Screen != "" {
		if o.Screen, err = filepath.Abs(o.Screen); err != nil {
			return t, err
		}
	}
	if o.Work, err = os.MkdirTemp(work, "mimeo-"); err != nil {
		return t, err
	}
	defer os.RemoveAll(o.Work)
	mnt, err := mount.Start(ctx, st, m, filepath.Join(o.Work, "image"), mount.Options{Name: rev.String(), Log: say})
	if err != nil {
		return t, mountError(rev.String(), err)
	}
	defer func() { err = errors.Join(err, mnt.Close()) }()
	o.Disk, o.SectorSize = filepath.Join(mnt.Dir, "disk.img"), m.Disk.SectorSize
	t = api.BootTest{Image: rev.Image, Rev: rev.Rev, ID: rev.ID.String(), Time: time.Now().UTC().Truncate(time.Second), Firmware: o.Firmware}
	r, err := trial.Run(ctx, o)
	if err != nil {
		return t, fmt.Errorf("boot %s: %w", rev, err)
	}
	t.Booted, t.Match, t.Why, t.TookMS, t.Accel, t.Read, t.Resets, t.Console, t.Screen = r.Booted, r.Match, r.Why, r.Took.Milliseconds(), r.Accel, r.Read, r.Resets, r.Console, r.Screen
	return t, nil
}

// GPT types, UEFI 2.10 section 5.3.3 table 5.7 and GRUB's manual; the MBR type, UEFI 2.10 section 5.2.2.
const (
	typeESP      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeBIOSBoot = "21686148-6449-6e6f-744e-656564454649"
	typeMBRESP   = "ef"
)

// firmwareOf says what an image boots by: UEFI where it has a system partition for that and nothing for a BIOS.
func firmwareOf(m *manifest.Manifest) string {
	esp, bios := false, false
	for _, p := range m.Table.Partitions {
		typ := strings.ToLower(p.Type)
		esp = esp || strings.HasPrefix(typ, typeESP) || m.Table.Kind == "mbr" && typ == typeMBRESP
		bios = bios || typ == typeBIOSBoot || m.Table.Kind == "mbr" && p.Bootable && typ != typeMBRESP
	}
	if esp && !bios {
		return "uefi"
	}
	return "bios"
}

// errNotUp is that the test was done, and the image did not come up.
type errNotUp struct{ t api.BootTest }

func (e errNotUp) Error() string {
	return fmt.Sprintf("%s@%d did not come up: %s", e.t.Image, e.t.Rev, e.t.Why)
}

func sayBootTest(out io.Writer, t api.BootTest, screen string, asJSON bool) error {
	if asJSON {
		if err := printJSON(out, t); err != nil {
			return err
		}
	} else {
		if t.Booted {
			fmt.Fprintf(out, "%s@%d came up by %s in %.0f s: %s\n", t.Image, t.Rev, t.Firmware, float64(t.TookMS)/1000, printable(t.Match))
		} else if t.Console != "" {
			fmt.Fprintf(out, "the end of what it said:\n\n%s\n\n", t.Console)
		}
		if t.Screen {
			fmt.Fprintf(out, "its screen: %s\n", screen)
		}
	}
	if !t.Booted {
		return errNotUp{t}
	}
	return nil
}
