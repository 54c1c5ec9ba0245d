// Package cli is the command line, one file per command.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"golang.org/x/term"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

// Version is the program's version, set when it is built.
var Version = "devel"

// Exit codes. They are listed in the help of mimeo.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnreachable = 5
	exitInterrupted = 130
)

// terminal is where a command talks to its user.
type terminal struct {
	in   io.Reader
	out  io.Writer // what was asked for
	err  io.Writer // all else
	json bool
}

// Main runs the command line and returns its exit code.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &terminal{in: in, out: out, err: errw}
	root := newRoot(t)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(errw, "mimeo: interrupted; jobs that were started go on (see: mimeo job list)")
		return exitInterrupted
	}
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Message: err.Error()}
		if isUsage(err) {
			e.Code = "bad_usage"
			e.Hint = usageHint(root, args)
		}
	}
	if t.json {
		json.NewEncoder(errw).Encode(map[string]*api.Error{"error": e})
	} else {
		fmt.Fprintln(errw, "mimeo: error:", err)
		if e.Hint != "" {
			fmt.Fprintln(errw, "mimeo: hint:", e.Hint)
		}
	}
	switch e.Code {
	case "bad_usage":
		return exitUsage
	case "not_found":
		return exitNotFound
	case "conflict", "denied", "refused", "bad_request", "unfit", "unsigned", "untrusted":
		return exitRefused
	case "unreachable", "no_access":
		return exitUnreachable
	}
	return exitFailed
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	var u usageError
	if errors.As(err, &u) {
		return true
	}
	for _, s := range []string{"unknown command", "unknown flag", "unknown shorthand", "accepts ", "requires at least", "required flag", "invalid argument", "flag needs an argument"} {
		if strings.HasPrefix(err.Error(), s) {
			return true
		}
	}
	return false
}

func usageHint(root *cobra.Command, args []string) string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd == root {
		return `"mimeo help" lists the commands`
	}
	return fmt.Sprintf("usage: %s", cmd.UseLine())
}

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "mimeo",
		Short: "Capture the disk of a machine over the network and stamp it onto any number of others",
		Long: `Mimeo captures the disk of a bare-metal machine over the network and stamps it
onto any number of others. This is its command line; mimeod does the work.

Many commands take a RANGE of nodes: n07, n[01-16], n[01-40],-n07, @rack3,
/^gpu/ (see "mimeo help ranges").

Exit codes: 0 done; 1 failed; 2 the command line cannot be understood; 3 no such
node, image or job; 4 refused (a conflict, not allowed, bad value);
5 the management node cannot be reached; 130 interrupted.`,
		Example: `  mimeo node add n01 --mac 52:54:00:00:00:01 --bmc ipmi://10.0.9.1 --user ops --password-stdin
  mimeo capture n01 --image debian12 --watch
  mimeo deploy n[02-40] --image debian12 --watch
  mimeo job list`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       Version,
	}
	root.PersistentFlags().BoolVar(&t.json, "json", false, "print JSON, whose fields stay as they are")
	root.AddGroup(&cobra.Group{ID: "day", Title: "What an admin does all day:"}, &cobra.Group{ID: "look", Title: "What there is:"})
	for _, c := range []*cobra.Command{captureCmd(t), deployCmd(t), wipeCmd(t), bootCmd(t), powerCmd(t), consoleCmd(t)} {
		c.GroupID = "day"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{nodeCmd(t), groupCmd(t), inventoryCmd(t), importCmd(t), imageCmd(t), storeCmd(t), keyCmd(t), jobCmd(t), scheduleCmd(t), postscriptCmd(t), statelessCmd(t), dhcpCmd(t), statusCmd(t)} {
		c.GroupID = "look"
		root.AddCommand(c)
	}
	root.AddCommand(setupCmd(), doctorCmd(), backupCmd(t), loginCmd(t), rangesHelp(), manualCmd())
	return root
}

func rangesHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "ranges",
		Short: "How to name several nodes at once",
		Long: `A RANGE names nodes, in the syntax that xCAT's people know:

  n01                  one node
  n01,n05              several
  n[01-16] or n01-n16  a row; leading zeros are kept
  n[1-3,7]             a row with gaps
  rack[1-2]n[1-4]      all pairs
  n01+5                n01 and the five after it
  @rack3, @rack[1-4]   the nodes of a group (a bare group's name does as well)
  n[01-16],-n07        all but one
  n[01-16]@rack3       those of the first that are in the second, too
  /^gpu/               a regular expression over the names
  arch==ppc64el        an attribute, own or inherited: ==, !=, =~, !~ (regular
                       expression); any key of "mimeo node set", and name,
                       boot, image
  room==b12            a label
  (a,b),-(c)           parentheses

Put a range with [ ] or ( ) in quotes where your shell would expand it.`,
	}
}

// connect finds the management node.
func connect() (*client.Client, error) {
	a, err := client.Find()
	if err != nil {
		return nil, err
	}
	return client.New(a), nil
}

// printJSON writes v, indented, to stdout.
func (t *terminal) printJSON(v any) error {
	enc := json.NewEncoder(t.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// isTTY tells whether w is a terminal.
func isTTY(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// manualCmd writes the man pages, for packages.
func manualCmd() *cobra.Command {
	return &cobra.Command{Use: "manual DIR", Hidden: true, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		root := cmd.Root()
		root.DisableAutoGenTag = true
		for _, c := range root.Commands() {
			if c.Name() == "completion" {
				root.RemoveCommand(c) // five pages on shells
			}
		}
		return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "Mimeo " + Version, Manual: "Mimeo"}, args[0])
	}}
}
