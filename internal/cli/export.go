package cli

import "github.com/spf13/cobra"

func imageExportCmd(t *terminal) *cobra.Command {
	var format string
	var compress, force, noSeal bool
	c := &cobra.Command{
		Use: "export NAME[@REV] FILE", Short: "Write an image as a disk file for other programs",
		Long: `Writes a revision of an image (the newest where none is named) as a file on this
machine that virtual machines and other programs read. What is not in use is neither
fetched nor stored in it.

  raw     the disk as it was, with holes; FILE - is standard output
  qcow2   for QEMU, libvirt, OpenStack; smaller with --compress
  vmdk    for VMware, VirtualBox; needs qemu-img, and for a while room for two files
  vhdx    for Hyper-V; likewise

The format is that of FILE's ending (.raw or .img, .qcow2, .vmdk, .vhdx), unless
--format names it. FILE has its name only when it is whole and on the disk: every byte
was checked against the image's hashes. One that is there is refused without --force.

FILE.seal keeps who signed the image and what FILE must hold; on any machine,
"mimeo-agent verify FILE --trust KEYFILE" checks the one with the other.

It needs the program mimeo-agent beside mimeo or in PATH.`,
		Example: `  mimeo image export rocky9 rocky9.qcow2 --compress
  mimeo image export win11@4 win11.vhdx
  mimeo image export rocky9@3 - | ssh n01 'dd of=/dev/sda bs=4M'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var flags []string
			if format != "" {
				flags = append(flags, "--format="+format)
			}
			if compress {
				flags = append(flags, "--compress")
			}
			if force {
				flags = append(flags, "--force")
			}
			if noSeal {
				flags = append(flags, "--no-seal")
			}
			return t.onAgent(cmd, "export", args[0], flags, args[1])
		},
	}
	f := c.Flags()
	f.StringVar(&format, "format", "", "raw, qcow2, vmdk or vhdx; by default that of FILE's ending")
	f.BoolVar(&compress, "compress", false, "compress what is in the file (qcow2)")
	f.BoolVar(&noSeal, "no-seal", false, "write no FILE.seal")
	f.BoolVar(&force, "force", false, "write over a file that is there")
	return c
}
