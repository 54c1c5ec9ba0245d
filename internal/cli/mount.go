package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

func imageMountCmd(t *terminal) *cobra.Command {
	var others bool
	c := &cobra.Command{
		Use: "mount NAME[@REV] DIR", Short: "Show an image as a folder on this machine, without deploying it",
		Long: `Shows a captured disk at DIR on this machine, read-only, until ctrl-C, SIGTERM or
"umount DIR". DIR is made where it is missing, and must be empty. What is looked at is
fetched from the management node, and checked against the image's hashes: what is
damaged gives an input/output error, and a line here says why.

  disk.img        the whole disk, as large as it was: what is not in use are holes
  volumes/N.img   the bytes of partition N; volumes/N/VG/LV.img of a volume in it
  files/N/        the files of partition N; files/N/VG/LV of a volume in it
                  (ext2, ext3, ext4, XFS, btrfs, NTFS, FAT, exFAT, F2FS)

It needs FUSE, and the program mimeo-agent beside mimeo or in PATH. Root needs no
more; others need fusermount3 (of the package fuse3). Only who mounts may look; with
--allow-other others may, as far as the modes of the files let them.

With --json, the first line tells in JSON where everything is.`,
		Example: `  mimeo image mount rocky9 /mnt/rocky9
  mimeo image mount win11@4 ~/win11 &
  mount -o loop,ro,norecovery /mnt/rocky9/volumes/3.img /mnt/3   # of a kind it has no files of`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var flags []string
			if others {
				flags = append(flags, "--allow-other")
			}
			return t.onAgent(cmd, "mount", args[0], flags, args[1])
		},
	}
	c.Flags().BoolVar(&others, "allow-other", false, "let other users of this machine look, too")
	return c
}

// onAgent has mimeo-agent take this program's place and do something with a revision of the management node's store.
func (t *terminal) onAgent(cmd *cobra.Command, what, image string, flags []string, args ...string) error {
	name, rev, err := t.splitImage(cmd, image)
	if err != nil {
		return err
	}
	return t.execAgent(what, flags, append([]string{fmt.Sprintf("%s@%d", name, rev)}, args...)...)
}

// execAgent has mimeo-agent take this program's place, and work on the management node's store.
func (t *terminal) execAgent(what string, flags []string, args ...string) error {
	a, err := client.Find()
	if err != nil {
		return err
	}
	agent, err := findAgent()
	if err != nil {
		return err
	}
	line := append([]string{"mimeo-agent", what, "--store", a.Server}, flags...)
	if t.json {
		line = append(line, "--json")
	}
	line = append(line, "--")
	// The token goes by the environment: everybody can read a command line.
	env := []string{"MIMEO_TOKEN=" + a.Token, "MIMEO_PIN=" + a.Pin}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MIMEO_") {
			env = append(env, e)
		}
	}
	return fmt.Errorf("start %s: %w", agent, syscall.Exec(agent, append(line, args...), env))
}

// findAgent looks for mimeo-agent beside this program, then in PATH.
func findAgent() (string, error) {
	names := []string{"mimeo-agent", "mimeo-agent-" + runtime.GOARCH}
	if own, err := os.Executable(); err == nil {
		for _, n := range names {
			if path, err := exec.LookPath(filepath.Join(filepath.Dir(own), n)); err == nil {
				return path, nil
			}
		}
	}
	for _, n := range names {
		if path, err := exec.LookPath(n); err == nil {
			return path, nil
		}
	}
	return "", &api.Error{Code: "not_found", Message: "there is no mimeo-agent on this machine, which reads images",
		Hint: "copy it from the management node to the folder of mimeo, or to one in PATH"}
}
