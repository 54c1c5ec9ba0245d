// Command mimeod is the daemon on the management node.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"mimeo/internal/manage/config"
	"mimeo/internal/manage/server"
	"mimeo/internal/manage/stateless"
)

// version is set when the program is built.
var version = "devel"

func main() {
	// Most of the memory is the store's index, which has no pointers: collecting more often costs little, and ten million
	// chunks stay below 1 GiB.
	debug.SetGCPercent(30)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "mimeod: error:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	var file string
	var interfaces []string
	flags := map[string]*string{}
	cmd := &cobra.Command{
		Use:   "mimeod",
		Short: "Serve nodes: DHCP, TFTP, HTTP, NFS; carry jobs on; keep images",
		Long: `mimeod is the daemon on the management node. It answers nodes on the interfaces
that are named, and nowhere else; nodes must be made known first (mimeo node add).

The first start makes the state folder and prints the admin's token.

Each setting may stand in the configuration file (docs/formats/config.md lists them),
in the environment (MIMEOD_HTTP, MIMEOD_LIMITS_NETBOOT, ...; MIMEOD_CONFIG names the
file), or in a flag, which goes before both.

Exit codes: 0 stopped by a signal; 1 something is wrong, as said on stderr.`,
		Example: `  mimeod --interface eth1              # answers DHCP on eth1
  mimeod --interface eth1=proxy        # beside somebody else's DHCP server
  mimeod --config /etc/mimeo/mimeod.yaml`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configure(file, environ, flags, interfaces)
			if err != nil {
				return err
			}
			level := &slog.HandlerOptions{}
			if cfg.LogLevel == "debug" {
				level.Level = slog.LevelDebug
			}
			var h slog.Handler = slog.NewTextHandler(stderr, level)
			if cfg.Log == "json" {
				h = slog.NewJSONHandler(stderr, level)
			}
			s, err := server.New(cmd.Context(), cfg, version, slog.New(h), stdout)
			if err != nil {
				return err
			}
			// systemd, where it started this, holds back what needs mimeod until now.
			if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
				slog.Warn("tell systemd that all is ready", "err", err)
			}
			return s.Serve(cmd.Context())
		},
	}
	given := func() (config.Config, error) { return configure(file, environ, flags, interfaces) }
	cmd.AddCommand(checkCmd(given), setupCmd(given), restoreCmd(given), buildCmd(), manualCmd())
	cmd.CompletionOptions.HiddenDefaultCmd = true
	f := cmd.PersistentFlags()
	f.StringVar(&file, "config", "", "configuration `file` ("+config.DefaultFile+", where it is there)")
	f.StringArrayVar(&interfaces, "interface", nil, "`NAME[=full|proxy|off]` of an interface on which nodes are served; several times for several")
	for _, o := range []struct{ key, usage string }{
		{"state", "`folder` for all that mimeod keeps (/var/lib/mimeo)"},
		{"store", "where chunks and manifests are kept: `dir:PATH` or s3://BUCKET/PREFIX (store in the state folder)"},
		{"http", "`[ADDRESS]:PORT` for boot files (:4480)"},
		{"https", "`[ADDRESS]:PORT` of the API (:4443)"},
		{"tftp", "`[ADDRESS]:PORT` of TFTP (:69)"},
		{"nfs", "`[ADDRESS]:PORT` of NFS (:4449)"},
		{"log", "text or json"},
		{"log-level", "info or debug"},
	} {
		flags[o.key] = f.String(o.key, "", o.usage)
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}

// buildCmd is what a mimeod that is not root starts in a user namespace.
func buildCmd() *cobra.Command {
	return &cobra.Command{Use: stateless.CommandApart, Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return stateless.ServeApart(cmd.Context(), os.Stdin, cmd.OutOrStdout())
	}}
}

// manualCmd writes the man page, for packages.
func manualCmd() *cobra.Command {
	return &cobra.Command{Use: "manual DIR", Hidden: true, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		root := cmd.Root()
		for _, c := range root.Commands() {
			if c.Name() == "completion" {
				root.RemoveCommand(c) // five pages on shells
			}
		}
		root.DisableAutoGenTag = true
		return doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "Mimeo " + version, Manual: "Mimeo"}, args[0])
	}}
}

// configure puts together what the file, the environment and the flags say.
func configure(file string, environ []string, flags map[string]*string, interfaces []string) (config.Config, error) {
	if file == "" {
		file = config.DefaultFile
		for _, e := range environ {
			if v, ok := strings.CutPrefix(e, config.EnvFile+"="); ok && v != "" {
				file = v
			}
		}
	}
	cfg, err := config.Load(file)
	if err != nil {
		return cfg, err
	}
	if err := cfg.FromEnv(environ); err != nil {
		return cfg, err
	}
	for key, v := range flags {
		if *v != "" {
			if err := cfg.Set(strings.ReplaceAll(key, "-", "_"), *v, "--"+key); err != nil {
				return cfg, err
			}
		}
	}
	if len(interfaces) > 0 {
		if err := cfg.Set("interfaces", strings.Join(interfaces, ","), "--interface"); err != nil {
			return cfg, err
		}
	}
	return cfg, cfg.Complete()
}
