package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mimeo/internal/agent/localcmd"
	"mimeo/internal/cluster/api"
)

// Exit codes. They are listed in the help of each command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitInterrupted = 130
)

// exitStatus is an error that is only an exit code: what there was to say has been said.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run runs the command line and returns the exit code.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	fmt.Fprintln(errw, "mimeo-agent: error:", err)
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{}
	}
	if e.Hint != "" {
		fmt.Fprintln(errw, "mimeo-agent: hint:", e.Hint)
	}
	switch {
	case errors.Is(err, context.Canceled), e.Code == "interrupted":
		return exitInterrupted
	case e.Code == "bad_usage":
		return exitUsage
	case e.Code == "not_found":
		return exitNotFound
	case e.Code == "refused":
		return exitRefused
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "mimeo-agent",
		Short: "Capture and deploy disks",
		Long: `mimeo-agent captures and deploys disks. On a node that a management node has
netbooted it is started by itself and takes its work from there. By hand, it maps,
captures and deploys disks and image files without any server.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &api.Error{Code: "bad_usage", Message: err.Error(), Hint: fmt.Sprintf("see %q", c.CommandPath()+" --help")}
	})
	root.AddCommand(runCmd(), hwinfoCmd(), systemCmd(), serviceCmd(), localcmd.MapCmd(), localcmd.CaptureCmd(version), localcmd.DeployCmd(), localcmd.FilesCmd(), localcmd.CatCmd(), localcmd.DiffCmd(), localcmd.MountCmd(), localcmd.ExportCmd(), localcmd.ImportCmd(version), localcmd.VerifyCmd(), localcmd.BootTestCmd(), localcmd.StoreCmd())
	return root
}
