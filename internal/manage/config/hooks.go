package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Hooks says who is told what became of jobs.
type Hooks struct {
	Folder string `yaml:"folder"` // of programs that are run; default /etc/mimeo/hooks.d
	Web    []Web  `yaml:"web"`    // receivers by HTTP
}

// Web is a receiver by HTTP.
type Web struct {
	URL        string   `yaml:"url"`
	SecretFile string   `yaml:"secret_file"` // whose first line signs messages
	Events     []string `yaml:"events"`      // which; default all

	Secret []byte `yaml:"-"` // read from SecretFile
}

// HookEvents are the events that are told.
var HookEvents = []string{"job.done", "job.failed", "job.cancelled", "job.lost"}

func (c *Config) checkHooks() error {
	h := &c.Hooks
	def(&h.Folder, "/etc/mimeo/hooks.d")
	if !filepath.IsAbs(h.Folder) {
		return c.wrong("hooks.folder", "%q: want an absolute path", h.Folder)
	}
	for i := range h.Web {
		w := &h.Web[i]
		key := fmt.Sprintf("hooks.web[%d]", i)
		if u, err := url.Parse(w.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return c.wrong(key+".url", "%q: want https://HOST/PATH", w.URL)
		}
		if slices.ContainsFunc(h.Web[:i], func(other Web) bool { return other.URL == w.URL }) {
			return c.wrong(key+".url", "%q stands there twice: name all its events at one place", w.URL)
		}
		for _, e := range w.Events {
			if !slices.Contains(HookEvents, e) {
				return c.wrong(key+".events", "%q: there are %s", e, strings.Join(HookEvents, ", "))
			}
		}
		if w.SecretFile == "" {
			continue
		}
		b, err := os.ReadFile(w.SecretFile)
		if err != nil {
			return c.wrong(key+".secret_file", "%v", err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		if w.Secret = []byte(strings.TrimSpace(line)); len(w.Secret) < 16 {
			return c.wrong(key+".secret_file", "%s: its first line has less than 16 characters", w.SecretFile)
		}
	}
	return nil
}
