// Command mimeod is the daemon on the management node.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mimeo/internal/manage/config"
	"mimeo/internal/manage/server"
)

// version is set when the program is built.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "mimeod: error:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var file string
	var flags config.Config
	var interfaces []string
	cmd := &cobra.Command{
		Use:   "mimeod",
		Short: "Serve nodes: DHCP, TFTP, HTTP, NFS; carry jobs on; keep images",
		Long: `mimeod is the daemon on the management node. It answers nodes on the interfaces
that are named, and nowhere else; nodes must be made known first (mimeo node add).

The first start makes the state folder and prints the admin's token.
Exit codes: 0 stopped by a signal; 1 something is wrong, as said on stderr.`,
		Example: `  mimeod --interface eth1              # answers DHCP on eth1
  mimeod --interface eth1=proxy        # beside somebody else's DHCP server
  mimeod --config /etc/mimeo/mimeod.yaml`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			for to, from := range map[*string]string{&cfg.State: flags.State, &cfg.Store: flags.Store, &cfg.HTTP: flags.HTTP, &cfg.HTTPS: flags.HTTPS, &cfg.TFTP: flags.TFTP, &cfg.NFS: flags.NFS, &cfg.Log: flags.Log} {
				if from != "" {
					*to = from
				}
			}
			if len(interfaces) > 0 {
				cfg.Interfaces = nil
				for _, s := range interfaces {
					cfg.Interfaces = append(cfg.Interfaces, config.ParseInterface(s))
				}
			}
			if err := cfg.Complete(); err != nil {
				return err
			}
			var h slog.Handler = slog.NewTextHandler(stderr, nil)
			if cfg.Log == "json" {
				h = slog.NewJSONHandler(stderr, nil)
			}
			s, err := server.New(cmd.Context(), cfg, version, slog.New(h), stdout)
			if err != nil {
				return err
			}
			return s.Serve(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", config.DefaultFile, "configuration `file`")
	f.StringArrayVar(&interfaces, "interface", nil, "`NAME[=full|proxy|off]` of an interface on which nodes are served; several times for several")
	f.StringVar(&flags.State, "state", "", "`folder` for all that mimeod keeps (/var/lib/mimeo)")
	f.StringVar(&flags.Store, "store", "", "where chunks and manifests are kept: `dir:PATH` (store in the state folder)")
	f.StringVar(&flags.HTTP, "http", "", "`[ADDRESS]:PORT` for boot files (:4480)")
	f.StringVar(&flags.HTTPS, "https", "", "`[ADDRESS]:PORT` of the API (:4443)")
	f.StringVar(&flags.TFTP, "tftp", "", "`[ADDRESS]:PORT` of TFTP (:69)")
	f.StringVar(&flags.NFS, "nfs", "", "`[ADDRESS]:PORT` of NFS (:4449)")
	f.StringVar(&flags.Log, "log", "", "text or json")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}
