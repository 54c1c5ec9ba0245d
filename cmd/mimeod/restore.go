package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mimeo/internal/manage/backup"
	"mimeo/internal/manage/config"
)

func restoreCmd(given func() (config.Config, error)) *cobra.Command {
	var only bool
	c := &cobra.Command{
		Use: "restore FILE", Aliases: []string{"restore-server"}, Short: "Make a management node of a backup",
		Long: `Makes the state folder of what "mimeo backup" wrote. The folder must be empty or
missing, and mimeod must not run. FILE is read and checked to its end before anything
is made. Then put the store back to where it was, build the stateless images, and
start mimeod.

With --check nothing is made: FILE is read and checked.`,
		Example: `  mimeod restore mimeo-2026-11-23.tar.gz
  mimeod restore --check mimeo-2026-11-23.tar.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := given()
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			var head backup.Head
			if only {
				head, err = backup.Check(f)
			} else {
				head, err = backup.Restore(f, cfg.State)
			}
			if err != nil {
				return fmt.Errorf("%s: %w; nothing was made", args[0], err)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s is whole: mimeod %s on %s, %s\n", args[0], head.Mimeo, head.Host, head.Created.Local().Format("2006-01-02 15:04:05"))
			if only {
				return nil
			}
			fmt.Fprintf(out, "restored to %s; then:\n", cfg.State)
			if conf := filepath.Join(cfg.State, backup.ConfigName); exists(conf) {
				fmt.Fprintf(out, "  its configuration is %s: compare it with %s\n", conf, cfg.File())
			}
			fmt.Fprintf(out, "  put the store back: %s\n  start mimeod, and: mimeo stateless build imaging\n", cfg.Store)
			return nil
		},
	}
	c.Flags().BoolVar(&only, "check", false, "only check the file")
	return c
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
