package config

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Hooks says who is told what becomes of jobs, nodes and images.
type Hooks struct {
	Folder string   `yaml:"folder"` // of programs that are run; default /etc/mimeo/hooks.d
	Events []string `yaml:"events"` // for which they are run; default EndEvents
	Web    []Web    `yaml:"web"`    // receivers by HTTP
}

// Web is a receiver by HTTP.
type Web struct {
	URL        string   `yaml:"url"`
	SecretFile string   `yaml:"secret_file"` // whose first line signs messages
	Events     []string `yaml:"events"`      // which; default EndEvents

	Secret []byte `yaml:"-"` // read from SecretFile
}

// EndEvents are told where a receiver does not say which it wants: that a job has ended.
var EndEvents = []string{"job.done", "job.failed", "job.cancelled", "job.lost"}

// HookEvents are all that can be told. docs/hooks.md says when.
var HookEvents = append([]string{"job.started", "job.waiting", "node.discovered", "node.added", "node.removed", "node.boot-state", "node.hardware", "node.trouble", "node.power-failed",
	"image.published", "image.removed", "store.damaged"}, EndEvents...)

// checkEvents looks at patterns of events, and gives those that hold where there are none.
func (c *Config) checkEvents(key string, patterns *[]string) error {
	if len(*patterns) == 0 {
		*patterns = EndEvents
	}
	for _, p := range *patterns {
		if !slices.ContainsFunc(HookEvents, func(e string) bool { ok, _ := path.Match(p, e); return ok }) {
			return c.wrong(key, "%q: there are %s, and patterns such as job.*", p, strings.Join(HookEvents, ", "))
		}
	}
	return nil
}

func (c *Config) checkHooks() error {
	h := &c.Hooks
	def(&h.Folder, "/etc/mimeo/hooks.d")
	if !filepath.IsAbs(h.Folder) {
		return c.wrong("hooks.folder", "%q: want an absolute path", h.Folder)
	}
	if err := c.checkEvents("hooks.events", &h.Events); err != nil {
		return err
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
		if err := c.checkEvents(key+".events", &w.Events); err != nil {
			return err
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
