package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func imageBootTestCmd(t *terminal) *cobra.Command {
	var req api.BootTestNew
	var timeout time.Duration
	var screen string
	c := &cobra.Command{
		Use: "boot-test NAME[@REV]", Short: "Boot an image in a virtual machine, to see whether it comes up",
		Long: `Boots a captured disk in QEMU on the management node, straight from the store, and
waits for a login prompt on its serial console, or for what --expect says. What the
system writes is thrown away, and it reaches no network. What came of the last test
is shown by "mimeo image show".

The image must show that it is up on its first serial port (on Linux: console=ttyS0).
Of one that does not, --screenshot shows the screen at the end of --timeout. The disk is
an AHCI one, of 4096-byte sectors NVMe; what was captured from a virtual machine may need
--bus virtio. Images of amd64 only. The management node needs qemu-system-x86, and for
UEFI ovmf.

Exit codes: 0 it came up; 1 it did not, or could not be tried; others as everywhere.`,
		Example: `  mimeo image boot-test rocky9 --screenshot rocky9.png
  mimeo image boot-test rocky9@2 --expect 'Reached target.*Multi-User' --timeout 10m`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			req.TimeoutMS = timeout.Milliseconds()
			var last api.BootTestProgress
			said := time.Now()
			err = c.Stream(cmd.Context(), http.MethodPost, imagePath(name, rev)+"/boot-test", req, func(data []byte) error {
				last = api.BootTestProgress{}
				if err := json.Unmarshal(data, &last); err != nil {
					return err
				}
				if !t.json && !last.Finished && time.Since(said) > 10*time.Second {
					said = time.Now()
					fmt.Fprintf(t.err, "%s@%d boots since %d s\n", name, rev, last.RunningMS/1000)
				}
				return nil
			})
			r := last.Result
			switch {
			case err != nil:
				return err
			case !last.Finished:
				return &api.Error{Code: "failed", Message: "the boot test broke off", Hint: "try again"}
			case r == nil:
				return last.Error
			}
			if t.json {
				if err := t.printJSON(r); err != nil {
					return err
				}
			} else if r.Booted {
				fmt.Fprintf(t.out, "%s@%d came up by %s in %d s: %s\n", name, rev, r.Firmware, (r.TookMS+500)/1000, printable(r.Match))
			} else if r.Console != "" {
				fmt.Fprintf(t.out, "the end of what it said:\n\n%s\n\n", r.Console)
			}
			if screen != "" && r.Screen {
				f, err := os.Create(screen)
				if err != nil {
					return err
				}
				err = c.Download(cmd.Context(), imagePath(name, rev)+"/boot-test/screen", f)
				if cerr := f.Close(); err == nil {
					err = cerr
				}
				if err != nil {
					return fmt.Errorf("picture of the screen: %w", err)
				}
				fmt.Fprintln(t.err, "its screen:", screen)
			}
			switch {
			case last.Error != nil:
				return last.Error
			case !r.Booted:
				hint := fmt.Sprintf("look at its screen: mimeo image boot-test %s@%d --screenshot FILE.png", name, rev)
				if screen != "" {
					hint = "look at its screen: " + screen
				}
				return &api.Error{Code: "failed", Message: fmt.Sprintf("%s@%d did not come up: %s", name, rev, r.Why), Hint: hint}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&req.Firmware, "firmware", "", "bios or uefi (default: what the image is for)")
	f.StringVar(&req.Bus, "bus", "", "how the disk is attached: ahci (default), nvme or virtio")
	f.StringVar(&req.Expect, "expect", "", "what it must say on its serial console, a regular `EXPRESSION` (default: a login prompt)")
	f.DurationVar(&timeout, "timeout", api.BootTestTimeout, "how long it has for that")
	f.IntVar(&req.Memory, "memory", api.BootTestMemory, "memory of the machine in `MIB`")
	f.StringVar(&screen, "screenshot", "", "make a picture of its screen at the end, a PNG `FILE`")
	return c
}

// bootTestLine says in a line what came of the last boot test.
func bootTestLine(r *api.BootTest) string {
	if r == nil {
		return "never tried"
	}
	if r.Booted {
		return fmt.Sprintf("came up by %s in %d s, %s", r.Firmware, (r.TookMS+500)/1000, moment(r.Time))
	}
	return fmt.Sprintf("did not come up by %s, %s: %s", r.Firmware, moment(r.Time), printable(r.Why))
}
