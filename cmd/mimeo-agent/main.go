// Command mimeo-agent runs in memory on a netbooted node: as /init of the initrd, as process 1 of the stateless image,
// and as the agent that captures and deploys disks. The same program maps, captures and deploys disks by hand.
package main

import (
	"os"
	"path/filepath"

	"mimeo/internal/agent/bringup"
)

// version is set when the program is built.
var version = "devel"

func main() {
	switch {
	case os.Getpid() == 1 && os.Args[0] == bringup.AgentPath && len(os.Args) > 1 && os.Args[1] == "init":
		bringup.Init()
	case os.Getpid() == 1 && os.Args[0] == "/init": // what the kernel starts
		bringup.Initrd(version)
	case filepath.Base(os.Args[0]) == "modprobe":
		os.Exit(bringup.Modprobe(os.Args[1:]))
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
