package server

import (
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/boot/tftp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// TestOpenFirmware asks by TFTP as a node with Open Firmware does: it gets what it boots, and nobody else does.
func TestOpenFirmware(t *testing.T) {
	r := start(t)
	const n1 = "boot/openfirmware/52-54-00-00-00-01"
	ask := func(from, name string) (string, error) {
		f, err := r.openFirmware(t.Context(), tftp.Request{Name: name, Remote: netip.MustParseAddrPort(from + ":1024"), Local: netip.MustParseAddr("127.0.0.1")})
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		return string(b), err
	}
	for _, x := range []struct{ from, name string }{{"127.0.0.12", n1}, {"127.0.0.11", "boot/openfirmware/52-54-00-00-00-99"}, {"127.0.0.11", "boot/openfirmware/n1"}} {
		if text, err := ask(x.from, x.name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s asks for %s and gets %q, %v", x.from, x.name, text, err)
		}
	}
	events := func() string {
		var all []api.Event
		r.must("GET", "/v1/nodes/n1/events", nil, &all)
		var b strings.Builder
		for _, e := range all {
			b.WriteString(e.Kind + ": " + e.Text + "\n")
		}
		return b.String()
	}
	if text, err := ask("127.0.0.11", n1); err != nil || !strings.HasPrefix(text, "\\ ") || !strings.HasSuffix(text, "\nboot disk\n") {
		t.Errorf("for the disk: %q, %v", text, err)
	}
	if got := events(); !strings.Contains(got, "told-disk: ") {
		t.Errorf("events:\n%s", got)
	}

	// Without an image for it, or with a damaged one, or with one whose kernel cannot be started so, it asks again.
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell}, nil)
	images := filepath.Join(r.cfg.State, "stateless", "imaging")
	for _, x := range []struct {
		prepare func() error
		why     string
	}{
		{func() error { return nil }, "no stateless image"},
		{func() error {
			if err := os.CopyFS(filepath.Join(images, "ppc64el", build), os.DirFS(filepath.Join(images, "amd64", build))); err != nil {
				return err
			}
			record := filepath.Join(images, "ppc64el", build, "record.json")
			b, err := os.ReadFile(record)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(record, []byte(strings.Replace(string(b), `"amd64"`, `"ppc64el"`, 1)), 0o644), os.Symlink(build, filepath.Join(images, "ppc64el", "current")))
		}, "read kernel"},
		{func() error { return os.WriteFile(filepath.Join(images, "ppc64el", build, "initrd.img"), nil, 0o644) }, "damaged"},
	} {
		if err := x.prepare(); err != nil {
			t.Fatal(err)
		}
		text, err := ask("127.0.0.11", n1)
		if err != nil || !strings.Contains(text, "\nd# 30000 ms\nreset-all\n") {
			t.Errorf("%s: %q, %v", x.why, text, err)
		}
		if got := events(); !strings.Contains(got, "no script: ") || !strings.Contains(got, x.why) {
			t.Errorf("%s: events:\n%s", x.why, got)
		}
	}
}
