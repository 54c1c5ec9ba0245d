package cli

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"mimeo/internal/manage/config"
	"mimeo/internal/manage/server"
)

// TestRealScripts runs terminal sessions of the command line against the real server, which has an inventory of its own
// for each of them.
func TestRealScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/real",
		Setup: func(e *testscript.Env) error {
			state := t.TempDir()
			cfg := config.Config{State: state, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"}
			if err := cfg.Complete(); err != nil {
				return err
			}
			s, err := server.New(t.Context(), cfg, "test", slog.New(slog.DiscardHandler), io.Discard)
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx) }()
			e.Defer(func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			e.Setenv("MIMEO_ADMIN_FILE", filepath.Join(state, "admin.json"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TZ", "UTC")
			return nil
		},
	})
}
