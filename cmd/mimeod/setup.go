package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/manage/config"
	"mimeo/internal/manage/doctor"
)

func setupCmd(given func() (config.Config, error)) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "setup", Short: "Ask for what mimeod must know, write the configuration, and check this machine",
		Long: `Asks on which network nodes are served, whether another DHCP server is there (it
listens for one), and where images are kept; shows what goes into the configuration
file, and writes it where you agree. Then it looks at this machine as "mimeod check"
does. A file that names interfaces already stays as it is.

With --interface and --yes nothing is asked. "mimeo setup" is the same.`,
		Example: `  mimeod setup
  mimeod setup --interface eth1=proxy --store dir:/srv/images --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := given()
			if err != nil {
				return err
			}
			return setup(cmd, cfg, yes)
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "ask nothing: take --interface and --store, and defaults for what is not said")
	return c
}

// dialog asks a person.
type dialog struct {
	in  *bufio.Reader
	out io.Writer
	yes bool
}

// ask returns the answer, or the default where none is given.
func (d *dialog) ask(question, preset string) (string, error) {
	if d.yes {
		return preset, nil
	}
	fmt.Fprintf(d.out, "%s [%s] ", question, preset)
	line, err := d.in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("no answer to %q: %w (--yes asks nothing)", question, err)
	}
	if line = strings.TrimSpace(line); line != "" {
		return line, nil
	}
	return preset, nil
}

func setup(cmd *cobra.Command, cfg config.Config, yes bool) error {
	file := cfg.File()
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, err := config.Load(file)
	if err != nil && len(old) > 0 {
		return err
	}
	if len(before.Interfaces) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s names interfaces already: it stays as it is\n\n", file)
		return report(cmd, cfg, false)
	}
	d := &dialog{in: bufio.NewReader(cmd.InOrStdin()), out: cmd.ErrOrStderr(), yes: yes}
	if len(cfg.Interfaces) == 0 {
		i, err := d.network(cmd)
		if err != nil {
			return err
		}
		cfg.Interfaces = []config.Interface{i}
	}
	if before.Store == "" {
		answer, err := d.ask("Folder for images (they are the large part)", strings.TrimPrefix(cfg.Store, "dir:"))
		if err != nil {
			return err
		}
		if !filepath.IsAbs(answer) {
			return fmt.Errorf("store %q: want a path from / on", answer)
		}
		cfg.Store = "dir:" + answer
	}
	text := settings(cfg, before)
	fmt.Fprintf(cmd.ErrOrStderr(), "\n%s gets:\n\n%s\n", file, text)
	answer, err := d.ask("Write it?", "yes")
	if err != nil {
		return err
	}
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return errors.New("not written; nothing was changed")
	}
	if err := writeSettings(file, string(old), text); err != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr())
	if err := report(cmd, cfg, false); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "\nNext: systemctl restart mimeod (or start mimeod), then mimeo stateless build imaging\n")
	return nil
}

// network asks on which interface nodes are served, and how.
func (d *dialog) network(cmd *cobra.Command) (config.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return config.Interface{}, err
	}
	var names []string
	for _, f := range all {
		addrs, err := f.Addrs()
		if err != nil || f.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				fmt.Fprintf(d.out, "  %-12s %s\n", f.Name, n)
				names = append(names, f.Name)
				break
			}
		}
	}
	if len(names) == 0 {
		return config.Interface{}, errors.New("no interface of this machine has an IPv4 address: give one to the interface of the nodes' network first")
	}
	if d.yes && len(names) > 1 {
		return config.Interface{}, fmt.Errorf("there are several interfaces (%s): say --interface NAME=full or NAME=proxy", strings.Join(names, ", "))
	}
	name, err := d.ask("On which of these are the nodes?", names[len(names)-1])
	if err != nil {
		return config.Interface{}, err
	}
	mode := "full"
	fmt.Fprintf(d.out, "Listening for other DHCP servers on %s ...\n", name)
	others, err := doctor.OtherServers(cmd.Context(), name)
	switch {
	case err != nil:
		fmt.Fprintf(d.out, "  that did not work: %v\n", err)
	case len(others) > 0:
		mode = "proxy"
		fmt.Fprintf(d.out, "  %s gives addresses there\n", strings.Join(others, ", "))
	default:
		fmt.Fprintln(d.out, "  nobody answered")
	}
	mode, err = d.ask("DHCP: full (addresses and how to boot), proxy (how to boot, beside another server), or off?", mode)
	if err != nil {
		return config.Interface{}, err
	}
	i := config.ParseInterface(name + "=" + mode)
	probe := config.Config{Interfaces: []config.Interface{i}}
	return i, probe.Complete()
}

// settings are the lines for the configuration file.
func settings(cfg, before config.Config) string {
	var b strings.Builder
	b.WriteString("interfaces:\n")
	for _, i := range cfg.Interfaces {
		fmt.Fprintf(&b, "  - name: %s\n    dhcp: %s\n", i.Name, i.DHCP)
	}
	if before.Store == "" && cfg.Store != "dir:"+filepath.Join(cfg.State, "store") {
		fmt.Fprintf(&b, "store: %q\n", cfg.Store)
	}
	return b.String()
}

// writeSettings puts the lines at the end of the file, and leaves the rest of it as it is.
func writeSettings(file, old, text string) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if old != "" && !strings.HasSuffix(old, "\n") {
		old += "\n"
	}
	if old != "" {
		old += "\n"
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".mimeod-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(old + "# Written by mimeod setup.\n" + text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		_, err = config.Load(f.Name())
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}
