package cli

import (
	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

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
  clonezilla  FILE is a folder that Clonezilla restores: put it into /home/partimag
  mimeo   FILE is a folder for "mimeo image import" elsewhere; it keeps the signatures

The format is that of FILE's ending (.raw or .img, .qcow2, .vmdk, .vhdx), unless
--format names it. FILE has its name only when it is whole and on the disk: every byte
was checked against the image's hashes. One that is there is refused without --force.

FILE.seal keeps who signed the image and what FILE must hold; on any machine,
"mimeo-agent verify FILE --trust KEYFILE" checks the one with the other.
Folders have none, and no --force: one that is there is never written over.

It needs the program mimeo-agent beside mimeo or in PATH.`,
		Example: `  mimeo image export rocky9 rocky9.qcow2 --compress
  mimeo image export win11@4 win11.vhdx
  mimeo image export rocky9@3 - | ssh n01 'dd of=/dev/sda bs=4M'
  mimeo image export rocky9 /home/partimag/rocky9 --format clonezilla`,
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
	f.StringVar(&format, "format", "", "raw, qcow2, vmdk, vhdx, clonezilla or mimeo; by default that of FILE's ending")
	f.BoolVar(&compress, "compress", false, "compress what is in the file (qcow2)")
	f.BoolVar(&noSeal, "no-seal", false, "write no FILE.seal")
	f.BoolVar(&force, "force", false, "write over a file that is there")
	return c
}

func imageImportCmd(t *terminal) *cobra.Command {
	var image, format, disk, work string
	var all bool
	c := &cobra.Command{
		Use: "import PATH --image NAME", Short: "Make an image of what another program kept of a disk",
		Long: `Reads an image of another program on this machine, and makes it the next revision of
an image: its blocks in use are found, cut at files and stored as those of a captured
disk. What the store has already is not sent.

  raw         a disk as it is: a file, or a block device
  qcow2, vmdk, vhdx, vhd, vdi
              files of virtual machines; needs qemu-img
  partclone   an image of one filesystem (formats 0001 and 0002), also compressed
              (gzip, zstd, xz, bzip2, lz4): a disk without a partition table
  partimage   the first volume (NAME.000) of an image of partimage 0.6, likewise
  clonezilla  a folder of Clonezilla (savedisk): partclone and dd images
  fog         a folder of FOG
  mimeo       a folder of "mimeo image export --format mimeo"; --image may be left out with
              --format mimeo. It becomes the next revision, and is signed anew

PATH is recognised by what it holds. All but raw is first written to a sparse file in
--work-dir, which takes as much room as the disk has in use, and is gone afterwards.
Every checksum that an image has is checked: one that is cut off or damaged makes no
revision.

It needs the program mimeo-agent beside mimeo or in PATH.`,
		Example: `  mimeo image import rocky9.qcow2 --image rocky9
  mimeo image import /home/partimag/lab-2024 --image lab
  mimeo image import /images/win11 --image win11     # of FOG`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if image == "" && format != "mimeo" {
				return &api.Error{Code: "bad_usage", Message: "--image NAME is missing: what should the image be called?"}
			}
			flags := []string{"--image=" + image}
			for name, v := range map[string]string{"format": format, "disk": disk, "work-dir": work} {
				if v != "" {
					flags = append(flags, "--"+name+"="+v)
				}
			}
			if all {
				flags = append(flags, "--keep-all")
			}
			return t.execAgent("import", flags, args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&image, "image", "", "the image's `NAME`")
	f.StringVar(&format, "format", "", "what PATH is, where it is not recognised")
	f.StringVar(&disk, "disk", "", "which disk of a folder with several: sda, d1")
	f.StringVar(&work, "work-dir", "", "folder for the sparse file; by default TMPDIR, or /var/tmp")
	f.BoolVar(&all, "keep-all", false, "keep what is in swap and hibernation files, too")
	return c
}
